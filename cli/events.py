"""`davit events`."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import urlencode

import click

from cli.common.engine import Engine, engine_options
from cli.common.output import listing_options, show_one


@click.command()
@engine_options
@listing_options
@click.option("--since", metavar="TIME", help="Replay from here: seconds since the epoch, RFC 3339, or 10m.")
@click.option("--until", metavar="TIME", help="End at this time.")
def command(engine: Engine, *, since: str | None, until: str | None, as_json: bool, form: str | None) -> None:
    """Tell what happens, as it happens.

    The list has no end of its own, so --json is an object a line here.

    \b
    Examples:
      davit events
      davit events --since 10m --until 0s --json
      davit events --format '{{.Type}} {{.Action}}'
    """
    asked = {key: value for key, value in (("since", since), ("until", until)) if value}
    for event in engine.client().lines("GET", "/events" + (f"?{urlencode(asked)}" if asked else "")):
        if as_json or form:
            show_one(event, form or "json")
        else:
            click.echo(_line(event))


def _line(event: dict[str, Any]) -> str:
    at = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(event["time"]))
    attributes = ", ".join(f"{key}={value}" for key, value in sorted(event["Actor"]["Attributes"].items()))
    return f"{at} {event['Type']} {event['Action']} {event['Actor']['ID']} ({attributes})"
