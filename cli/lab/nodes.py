"""`davit lab`: what is done in nodes, and to them."""

from __future__ import annotations

import os

import click

from cli.lab.group import Chosen, chosen_lab, subcommand

_WORDS = {"ignore_unknown_options": True, "allow_interspersed_args": False}


@subcommand("env", "env m1")
@click.argument("node")
@chosen_lab
def env(chosen: Chosen, node: str) -> None:
    """Print shell code that points the docker command at a NODE."""
    found = chosen.lab()
    found.client(node)
    click.echo(f"export DOCKER_HOST=unix://{found.places.socket(node)}")


@subcommand("exec", "exec m1 docker ps", "exec w1 ip route", context_settings=_WORDS)
@click.argument("node")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@chosen_lab
def exec_(chosen: Chosen, node: str, command: tuple[str, ...]) -> None:
    """Run a COMMAND in a NODE, as on a machine of its own."""
    from lab.nodes.inside import become

    become(chosen.lab(), node, list(command))


@subcommand("shell", "shell w1")
@click.argument("node")
@chosen_lab
def shell(chosen: Chosen, node: str) -> None:
    """Start a shell in a NODE."""
    from lab.nodes.inside import become

    become(chosen.lab(), node, [os.environ.get("SHELL", "/bin/sh")])


def _on_nodes(action: str, words: str) -> None:
    @subcommand(action, f"{action} w1", help=words)
    @click.argument("nodes", nargs=-1, required=True, metavar="NODE...")
    @chosen_lab
    def run(chosen: Chosen, nodes: tuple[str, ...]) -> None:
        from lab.actions import on_nodes

        on_nodes(chosen.lab().places, action, nodes)


_on_nodes("kill", "Pull the plug: the node's processes are gone without a goodbye, its wires are not.")
_on_nodes("pause", "Stop a node's processors; it neither answers nor hears.")
_on_nodes("resume", "Let a paused node go on.")
_on_nodes("restart", "Start a node that is off, or switch it off and on again.")
