"""`davit cluster init`."""

from __future__ import annotations

import click

from cli.common.engine import Engine, engine_options


@click.command()
@engine_options
@click.option(
    "--advertise", metavar="ADDR", default="", help="Where the others reach this machine: an address or interface."
)
@click.option("--listen", metavar="ADDR:PORT", default="0.0.0.0:2377", show_default=True,
              help="Where machines join; the two ports after it are the bus's and the store's.")  # fmt: skip
@click.option("--availability", type=click.Choice(["active", "pause", "drain"]), default="active")
def command(engine: Engine, *, advertise: str, listen: str, availability: str) -> None:
    """Make this engine the manager of a new cluster.

    \b
    Examples:
      davit cluster init
      davit cluster init --advertise eth1
    """
    client = engine.client()
    body = {"AdvertiseAddr": advertise, "ListenAddr": listen, "Availability": availability}
    node_id = client.post("/swarm/init", body)
    door = next(one["Addr"] for one in client.get("/info")["Swarm"]["RemoteManagers"] if one["NodeID"] == node_id)
    token = client.get("/swarm")["JoinTokens"]["Worker"]
    click.echo(f"This engine manages a new cluster now, as node {node_id}.\n")
    click.echo(f"To add a machine, type there:\n\n    davit cluster join --token {token} {door}\n")
    click.echo("davit node ls shows who is in it.")
