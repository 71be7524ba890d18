"""`davit node inspect`."""

from __future__ import annotations

import json
from urllib.parse import quote

import click

from cli.common.engine import Engine, engine_options
from cli.common.output import show_one


@click.command()
@engine_options
@click.argument("nodes", nargs=-1, metavar="NODE…")
@click.option("--format", "form", metavar="FORM", help="json (an object a line), or a template: '{{.Status.State}}'.")
def command(engine: Engine, *, nodes: tuple[str, ...], form: str | None) -> None:
    """Show all that is known of nodes; of this machine when none is named.

    \b
    Examples:
      davit node inspect second
      davit node inspect --format '{{.Status.State}}' second
    """
    client = engine.client()
    found = [client.get(f"/nodes/{quote(name, safe='')}") for name in nodes or ("self",)]
    if form is None:
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    for node in found:
        show_one(node, form)
