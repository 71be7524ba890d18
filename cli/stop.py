"""`davit stop`."""

from __future__ import annotations

from urllib.parse import quote

import click

from cli.common import names
from cli.common.engine import Engine, engine_options


@click.command()
@engine_options
@click.option("-t", "--timeout", type=int, metavar="SECONDS", help="Kill what has not ended by then.")
@click.argument("containers", nargs=-1, required=True, shell_complete=names.containers)
def command(engine: Engine, containers: tuple[str, ...], *, timeout: int | None) -> None:
    """Stop containers.

    \b
    Examples:
      davit stop web
      davit stop --timeout 1 $(davit ps -q)
    """
    client = engine.client()
    query = "" if timeout is None else f"?t={timeout}"
    for container in containers:
        client.post(f"/containers/{quote(container)}/stop{query}", timeout_s=None)
        click.echo(container)
