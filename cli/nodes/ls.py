"""`davit node ls`."""

from __future__ import annotations

from typing import Any

import click

from cli.common.engine import Engine, engine_options
from cli.common.output import listing_options, show
from cli.common.values import size

_COLUMNS = {
    "ID": "ID",
    "NODE": "Hostname",
    "STATUS": "Status",
    "AVAILABILITY": "Availability",
    "ROLE": "Role",
    "ADDRESS": "Address",
    "CONTAINERS": "Containers",
    "FREE MEMORY": "FreeMemory",
    "LOAD": "Load",
}


@click.command()
@engine_options
@listing_options
@click.option("-q", "--quiet", is_flag=True, help="Only ids.")
def command(engine: Engine, *, quiet: bool, as_json: bool, form: str | None) -> None:
    """List nodes.

    \b
    Examples:
      davit node ls
      davit node ls --format '{{.Hostname}} {{.Status}}'
    """
    rows = [row(node) for node in engine.client().get("/nodes")]
    if quiet:
        for one in rows:
            click.echo(one["ID"])
        return
    show(rows, _COLUMNS, as_json=as_json, form=form)


def row(node: dict[str, Any]) -> dict[str, Any]:
    """A node as lists and templates have it."""
    beyond, manager = node["Davit"], node.get("ManagerStatus")
    role = "worker" if manager is None else "manager (leader)" if manager.get("Leader") else "manager"
    return {
        "ID": node["ID"],
        "Hostname": node["Description"]["Hostname"],
        "Status": node["Status"]["State"],
        "Message": node["Status"].get("Message", ""),
        "Availability": node["Spec"]["Availability"],
        "Role": role,
        "Address": node["Status"]["Addr"],
        "Containers": beyond["Containers"],
        "FreeMemory": size(beyond["MemoryAvailable"]),
        "Load": f"{beyond['LoadAverage']:.2f}",
        "Labels": node["Spec"]["Labels"],
    }
