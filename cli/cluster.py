"""`davit cluster`: one engine of many machines."""

from __future__ import annotations

import click

from cli.common.lazy import Lazy, LazyGroup

COMMANDS = {
    "init": Lazy("cli.clusters.init", "Make this engine the manager of a new cluster."),
    "join": Lazy("cli.clusters.join", "Start this machine as a node of a cluster."),
    "leave": Lazy("cli.clusters.leave", "Leave the cluster."),
    "token": Lazy("cli.clusters.token", "Show or rotate the tokens with which machines join."),
}


@click.group(cls=LazyGroup, lazy=COMMANDS)
def command() -> None:
    """One engine of many machines.

    \b
    Examples:
      davit cluster init --advertise 10.0.0.1         on the first machine; prints what to type on the others
      davit cluster join --token SWMTKN-1-… 10.0.0.1  on each of the others
      davit node ls
    """
