"""`davit cluster token`."""

from __future__ import annotations

import click

from cli.common.engine import Engine, engine_options


@click.command()
@engine_options
@click.option("--role", type=click.Choice(["worker", "manager"]), default="worker", show_default=True)
@click.option("--rotate", is_flag=True, help="Make a new one first; the old one lets nobody in any more.")
@click.option("-q", "--quiet", is_flag=True, help="Only the token.")
def command(engine: Engine, *, role: str, rotate: bool, quiet: bool) -> None:
    """Show or rotate the tokens with which machines join.

    \b
    Examples:
      davit cluster token
      davit cluster token --rotate -q
    """
    client = engine.client()
    swarm = client.get("/swarm")
    if rotate:
        version = swarm["Version"]["Index"]
        client.post(f"/swarm/update?version={version}&rotate{role.capitalize()}Token=1", swarm["Spec"])
        swarm = client.get("/swarm")
    token = swarm["JoinTokens"][role.capitalize()]
    if quiet:
        click.echo(token)
        return
    managers = client.get("/info")["Swarm"]["RemoteManagers"]
    click.echo(f"davit cluster join --token {token} {managers[0]['Addr']}")
