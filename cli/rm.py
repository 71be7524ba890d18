"""`davit rm`."""

from __future__ import annotations

from urllib.parse import quote

import click

from cli.common import names
from cli.common.engine import Engine, engine_options


@click.command()
@engine_options
@click.option("-f", "--force", is_flag=True, help="Also those that run.")
@click.argument("containers", nargs=-1, required=True, shell_complete=names.containers)
def command(engine: Engine, containers: tuple[str, ...], *, force: bool) -> None:
    """Remove containers.

    \b
    Examples:
      davit rm web
      davit rm --force $(davit ps -aq)
    """
    client = engine.client()
    for container in containers:
        client.delete(f"/containers/{quote(container)}?force={int(force)}")
        click.echo(container)
