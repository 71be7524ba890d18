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
@click.option("--from", "place", metavar="N", help="Go on behind the event whose cursor this is; 0 for all.")
@click.option("-f", "--follow", is_flag=True, help="With --from: go on with what comes.")
def command(
    engine: Engine,
    *,
    since: str | None,
    until: str | None,
    place: str | None,
    follow: bool,
    as_json: bool,
    form: str | None,
) -> None:
    """Tell what happens, as it happens.

    The list has no end of its own, so --json is an object a line here.

    \b
    Examples:
      davit events
      davit events --since 10m --until 0s --json
      davit events --follow --json --from 0            each has a cursor, which a later --from goes on behind
      davit events --format '{{.Type}} {{.Action}}'
    """
    if place is not None and not follow and until is None:
        until = str(time.time_ns() / 1e9)
    asked = {key: value for key, value in (("since", since), ("until", until), ("from", place)) if value}
    for event in engine.client().lines("GET", "/events" + (f"?{urlencode(asked)}" if asked else "")):
        if as_json or form:
            show_one(event, form or "json")
        else:
            click.echo(_line(event))


def _line(event: dict[str, Any]) -> str:
    at = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(event["time"]))
    attributes = ", ".join(f"{key}={value}" for key, value in sorted(event["Actor"]["Attributes"].items()))
    return f"{at} {event['Type']} {event['Action']} {event['Actor']['ID']} ({attributes})"
