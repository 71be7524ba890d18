"""`davit audit sinks`."""

from __future__ import annotations

import click

from cli.common.engine import Engine, engine_options
from cli.common.output import listing_options, show

COLUMNS = {
    "NAME": "Name",
    "TYPE": "Type",
    "FORMAT": "Format",
    "POSITION": "Position",
    "BEHIND": "Behind",
    "FAILURES": "Failures",
    "NEXT AT": "NextAt",
    "PROBLEM": "Problem",
}


@click.command()
@engine_options
@listing_options
def command(engine: Engine, *, as_json: bool, form: str | None) -> None:
    """Show where records are delivered, and how far that is.

    \b
    Examples:
      davit audit sinks
      davit audit sinks --format '{{.Name}}: {{.Behind}} behind'
    """
    show(engine.client().get("/audit/sinks"), COLUMNS, as_json=as_json, form=form)
