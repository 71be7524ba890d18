"""`davit version`."""

from __future__ import annotations

import click

from cli.common.output import listing_options, show_one
from shared.version import VERSION


@click.command()
@listing_options
def command(*, as_json: bool, form: str | None) -> None:
    """Show this version.

    \b
    Examples:
      davit version
      davit version --format '{{.Version}}'
    """
    if as_json or form:
        show_one({"Version": VERSION}, form or "json")
    else:
        click.echo(f"davit {VERSION}")
