"""`davit node`: the machines of a cluster."""

from __future__ import annotations

import click

from cli.common.lazy import Lazy, LazyGroup

COMMANDS = {
    "ls": Lazy("cli.nodes.ls", "List nodes."),
    "inspect": Lazy("cli.nodes.inspect", "Show all that is known of nodes."),
    "update": Lazy("cli.nodes.update", "Change a node's labels or availability."),
    "rm": Lazy("cli.nodes.rm", "Remove nodes from the cluster."),
}


@click.group(cls=LazyGroup, lazy=COMMANDS)
def command() -> None:
    """The machines of a cluster.

    \b
    Examples:
      davit node ls
      davit node update --label-add zone=a second
      davit node update --availability drain second
    """
