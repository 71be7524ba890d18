"""`davit lab`: what is done to links."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli.lab.group import Chosen, chosen_lab, subcommand


@subcommand("cut", "cut m1 w1", "cut w1 lan")
@click.argument("one")
@click.argument("other")
@chosen_lab
def cut(chosen: Chosen, one: str, other: str) -> None:
    """Let nothing go between two nodes, or a node and a segment."""
    from lab.actions import on_links

    on_links(chosen.lab().places, "cut", one, other)


@subcommand("isolate", "isolate w1")
@click.argument("node")
@chosen_lab
def isolate(chosen: Chosen, node: str) -> None:
    """Let nothing go between a NODE and all others."""
    from lab.actions import on_links

    on_links(chosen.lab().places, "isolate", node)


@subcommand("heal", "heal", "heal m1 w1")
@click.argument("names", nargs=-1, metavar="[ONE [OTHER]]")
@chosen_lab
def heal(chosen: Chosen, names: tuple[str, ...]) -> None:
    """Undo cuts: all of them, those of one node, or the one between two."""
    from lab.actions import on_links

    if len(names) > 2:
        raise click.UsageError("at most two names")
    on_links(chosen.lab().places, "heal", *names)


@subcommand("link", "link m1 w1 --delay 20ms --loss 1%", "link m1 w1 --rate 10mbit --one-way", "link m1 w1 --reset")
@click.argument("one")
@click.argument("other")
@click.option("--delay", metavar="TIME", help="Hold each frame: 20ms.")
@click.option("--jitter", metavar="TIME", help="Vary the delay by so much.")
@click.option("--loss", metavar="SHARE", help="Lose so many frames: 10%.")
@click.option("--rate", metavar="RATE", help="Carry no more than 10mbit; 0 for no limit.")
@click.option("--duplicate", metavar="SHARE", help="Deliver so many twice.")
@click.option("--corrupt", metavar="SHARE", help="Turn a bit in so many.")
@click.option("--reorder", metavar="SHARE", help="Let so many overtake those that are held.")
@click.option("--one-way", is_flag=True, help="Only from ONE to OTHER.")
@click.option("--reset", is_flag=True, help="Do nothing to frames any more.")
@chosen_lab
def link(chosen: Chosen, /, one: str, other: str, one_way: bool, reset: bool, **parameters: Any) -> None:
    """Change what a link does to frames; what is not mentioned stays as it is."""
    from lab.actions import change_link

    values = {name: value for name, value in parameters.items() if value is not None}
    if reset == bool(values):
        raise click.UsageError("give parameters, or --reset")
    change_link(chosen.lab().places, one, other, values, both=not one_way)


@subcommand("capture", "capture m1-w1 trace.pcap", "capture w1@lan - | tcpdump -r -")
@click.argument("link")
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--count", type=int, metavar="FRAMES", help="End after so many.")
@click.option("--for", "duration", metavar="TIME", help="End after so long: 10s.")
@chosen_lab
def capture(chosen: Chosen, link: str, file: Path, count: int | None, duration: str | None) -> None:
    """Write the frames of a LINK (or NODE@SEGMENT) to a pcap FILE, until Ctrl-C."""
    from lab.links.capture import capture as write

    click.echo(f"{write(chosen.lab(), link, file, count=count, duration=duration)} frames", err=True)
