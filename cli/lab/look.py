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
