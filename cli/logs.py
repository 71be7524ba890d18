"""`davit logs`."""

from __future__ import annotations

from urllib.parse import quote, urlencode

import click

from cli.common import names
from cli.common.containeroutput import copy
from cli.common.engine import Engine, engine_options


@click.command()
@engine_options
@click.option("-f", "--follow", is_flag=True, help="Go on as more is written.")
@click.option("-t", "--timestamps", is_flag=True, help="Begin each line with its time.")
@click.option("-n", "--tail", default="all", metavar="LINES", help="Only so many lines of the end.")
@click.option("--since", metavar="TIME", help="Only what is newer: seconds since the epoch, RFC 3339, or 10m.")
@click.option("--until", metavar="TIME", help="Only what is older.")
@click.argument("container", shell_complete=names.containers)
def command(
    engine: Engine, container: str, *, follow: bool, timestamps: bool, tail: str, since: str | None, until: str | None
) -> None:
    """Show a container's output.

    \b
    Examples:
      davit logs -f web
      davit logs --tail 20 --timestamps web
    """
    client = engine.client()
    inspected = client.get(f"/containers/{quote(container)}/json")
    asked = {"stdout": 1, "stderr": 1, "follow": int(follow), "timestamps": int(timestamps), "tail": tail}
    asked |= {key: value for key, value in (("since", since), ("until", until)) if value}
    chunks = client.stream("GET", f"/containers/{inspected['Id']}/logs?{urlencode(asked)}")
    copy(chunks, multiplexed=not inspected["Config"]["Tty"])
