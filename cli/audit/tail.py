"""`davit audit tail`."""

from __future__ import annotations

import click

from cli.audit.reading import pages, shown
from cli.common.engine import Engine, engine_options


@click.command()
@engine_options
@click.option("-n", "--lines", "count", type=click.IntRange(0), default=20, show_default=True, help="How many at most.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes.")
@click.option("--from", "first", type=click.IntRange(0), metavar="N", help="Begin with this number instead.")
@click.option("--json", "as_json", is_flag=True, help="An object a line.")
def command(engine: Engine, *, count: int, follow: bool, first: int | None, as_json: bool) -> None:
    """Show the newest records, and those that come.

    \b
    Examples:
      davit audit tail -f
      davit audit tail --from 1200 --follow --json     go on where a reader has ended
    """
    client = engine.client()
    state = client.get("/audit/state")
    begin = max(state["First"], state["Size"] - count if first is None else first)
    if follow:
        for record in client.lines("GET", f"/audit?from={begin}"):
            click.echo(shown(record, as_json))
        return
    for record in pages(client, begin, state["Size"]):
        click.echo(shown(record, as_json))
