"""`davit lab`: looking at labs."""

from __future__ import annotations

import json

import click

from cli.lab.group import Chosen, chosen_lab, subcommand


@subcommand("status", "status", "status --json")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
@chosen_lab
def status(chosen: Chosen, as_json: bool) -> None:
    """Show nodes, their state and addresses, and what is done to links."""
    from lab.status import collect, lines

    result = collect(chosen.lab())
    click.echo(json.dumps(result, indent=2) if as_json else "\n".join(lines(result)))
    if not result["healthy"]:
        raise SystemExit(1)


@subcommand("graph", "graph", "graph --mermaid")
@click.option("--mermaid", is_flag=True, help="As a diagram for documents.")
@chosen_lab
def graph(chosen: Chosen, mermaid: bool) -> None:
    """Draw the lab's networks."""
    from lab import graph as drawing

    found = chosen.lab()
    draw = drawing.mermaid if mermaid else drawing.text
    click.echo("\n".join(draw(found.topology, found.nets, found.wires)))


@subcommand("faults", "faults", "faults --again", "faults --stop")
@click.option("--again", is_flag=True, help="Begin the timeline anew.")
@click.option("--stop", is_flag=True, help="Do nothing more of it.")
@chosen_lab
def faults(chosen: Chosen, again: bool, stop: bool) -> None:
    """Show the timeline of faults, and what became of each."""
    from lab.faults.keeping import lines

    found = chosen.lab()
    if again or stop:
        from lab.actions import begin_faults

        begin_faults(found.places, again=again)
        return
    for line in lines(found):
        click.echo(line)


@subcommand("check", "check", "check --within 30s --json")
@click.option("--within", default="5s", metavar="TIME", show_default=True, help="Let differences go away so long.")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
@chosen_lab
def check(chosen: Chosen, within: str, as_json: bool) -> None:
    """Compare records, event log and every node's kernel; end with 1 when they differ."""
    from lab.checks.run import check as compare
    from lab.topology.units import duration

    try:
        within_s = duration(within)
    except ValueError as error:
        raise click.UsageError(f"--within: {error}") from error
    found = compare(chosen.lab(), within_s)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        for name, problems in found.items():
            click.echo(f"{name}: {'ok' if not problems else ''}".rstrip())
            for problem in problems:
                click.echo(f"  {problem}")
    if any(found.values()):
        raise SystemExit(1)


@subcommand("wait", "wait", "wait w1 w2 --timeout 10s", "wait --faults")
@click.argument("nodes", nargs=-1)
@click.option("--faults", is_flag=True, help="Until the timeline has come to its end.")
@click.option("--timeout", default="60s", metavar="TIME", show_default=True)
@chosen_lab
def wait(chosen: Chosen, nodes: tuple[str, ...], faults: bool, timeout: str) -> None:
    """Wait until all nodes, or the NODES, are ready for work."""
    from lab.topology.units import duration
    from lab.waiting import wait as until
    from lab.waiting import wait_for_faults

    try:
        timeout_s = duration(timeout)
    except ValueError as error:
        raise click.UsageError(f"--timeout: {error}") from error
    if faults:
        wait_for_faults(chosen.lab(), timeout_s)
    else:
        until(chosen.lab(), nodes, timeout_s)


@subcommand("schema", "schema > lab.schema.json")
def schema() -> None:
    """Print the JSON schema of a lab's file, for editors."""
    from lab.topology.model import Topology

    click.echo(json.dumps(Topology.model_json_schema(), indent=2))


@subcommand("logs", "logs w1", "logs -f w1")
@click.argument("node")
@click.option("-f", "--follow", is_flag=True, help="Go on as the engine writes.")
@click.option("-n", "--tail", type=int, default=None, metavar="LINES", help="Only the last ones.")
@chosen_lab
def logs(chosen: Chosen, node: str, follow: bool, tail: int | None) -> None:
    """Show what a NODE's engine has logged."""
    from lab.nodes.inside import logs as read

    for text in read(chosen.lab(), node, follow=follow, tail=tail):
        click.echo(text, nl=False)
