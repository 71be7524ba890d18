"""`davit run`."""

from __future__ import annotations

from urllib.parse import quote

import click

from cli.common import exits, names
from cli.common.containeroutput import copy
from cli.common.engine import Engine, engine_options
from shared.errors import DavitError


@click.command(context_settings={"allow_interspersed_args": False})
@engine_options
@click.option("-d", "--detach", is_flag=True, help="Print the container's id and leave it running.")
@click.option("--rm", "remove", is_flag=True, help="Remove the container when it ends.")
@click.option("--init", is_flag=True, help="Run the command below an init that forwards signals and reaps.")
@click.option("--name", help="The container's name.")
@click.argument("image", shell_complete=names.images)
@click.argument("arguments", nargs=-1, metavar="[COMMAND]...")
def command(
    engine: Engine, image: str, arguments: tuple[str, ...], *, detach: bool, remove: bool, init: bool, name: str | None
) -> int:
    """Run a command in a new container. Ends with the command's exit code; with 125 when it was not run.

    \b
    Examples:
      davit run --rm busybox echo hello
      davit run -d --init --name web busybox httpd -f
    """
    client = engine.client()
    body = {
        "Image": image,
        "Cmd": list(arguments) or None,
        "AttachStdout": not detach,
        "AttachStderr": not detach,
        "HostConfig": {"AutoRemove": remove and detach, "Init": init or None},
    }
    created = ""
    try:
        created = client.post("/containers/create" + (f"?name={quote(name)}" if name else ""), body)["Id"]
        client.post(f"/containers/{created}/start")
    except DavitError as error:
        if created and remove:
            client.delete(f"/containers/{created}?force=1&v=1")
        raise exits.CommandFailed(str(error), exits.ENGINE_REFUSED) from error
    if detach:
        click.echo(created)
        return exits.OK
    try:
        copy(client.stream("GET", f"/containers/{created}/logs?follow=1&stdout=1&stderr=1"), multiplexed=True)
        return int(client.post(f"/containers/{created}/wait", timeout_s=None)["StatusCode"])
    finally:
        if remove:
            client.delete(f"/containers/{created}?force=1&v=1")
