"""`davit ps`."""

from __future__ import annotations

import json
from typing import Any

import click

from cli.common.engine import Engine, engine_options
from cli.common.output import listing_options, show
from cli.common.values import ago, short_id

_COLUMNS = {
    "CONTAINER ID": "ShortID",
    "IMAGE": "Image",
    "COMMAND": "Command",
    "CREATED": "RunningFor",
    "STATUS": "Status",
    "PORTS": "Ports",
    "NAMES": "Names",
}


@click.command()
@engine_options
@listing_options
@click.option("-a", "--all", "everything", is_flag=True, help="Also those that do not run.")
@click.option("-q", "--quiet", is_flag=True, help="Only ids.")
def command(engine: Engine, *, everything: bool, quiet: bool, as_json: bool, form: str | None) -> None:
    """List containers.

    \b
    Examples:
      davit ps -a
      davit ps --format '{{.Names}}\\t{{.Status}}'
      davit ps --json
    """
    containers = engine.client().get("/containers/json" + ("?all=1" if everything else ""))
    if quiet:
        for container in containers:
            click.echo(short_id(container["Id"]))
        return
    show([_row(container) for container in containers], _COLUMNS, as_json=as_json, form=form)


def _row(container: dict[str, Any]) -> dict[str, Any]:
    return {
        "ID": container["Id"],
        "ShortID": short_id(container["Id"]),
        "Image": container["Image"],
        "Command": json.dumps(container["Command"][:20]),
        "CreatedAt": container["Created"],
        "RunningFor": ago(container["Created"]),
        "State": container["State"],
        "Status": container["Status"],
        "Ports": ", ".join(_port(port) for port in container["Ports"]),
        "Names": ",".join(name.lstrip("/") for name in container["Names"]),
        "Labels": container.get("Labels") or {},
    }


def _port(port: dict[str, Any]) -> str:
    inner = f"{port['PrivatePort']}/{port['Type']}"
    return f"{port.get('IP', '')}:{port['PublicPort']}->{inner}" if port.get("PublicPort") else inner
