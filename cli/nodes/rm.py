"""`davit node rm`."""

from __future__ import annotations

from urllib.parse import quote

import click

from cli.common.engine import Engine, engine_options


@click.command()
@engine_options
@click.argument("nodes", nargs=-1, required=True, metavar="NODE…")
@click.option("-f", "--force", is_flag=True, help="Also one that is not down.")
def command(engine: Engine, *, nodes: tuple[str, ...], force: bool) -> None:
    """Remove nodes from the cluster. The bus lets them in no more.

    \b
    Examples:
      davit node rm second
      davit node rm --force second third
    """
    client = engine.client()
    for node in nodes:
        client.delete(f"/nodes/{quote(node, safe='')}?force={int(force)}")
        click.echo(node)
