"""`davit lab`: starting and ending labs."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import click

from cli.lab.group import Chosen, chosen_lab, subcommand


@subcommand("init", "init > lab.yml", "init lab.yml")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), required=False)
def init(file: Path | None) -> None:
    """Write an example of a lab's file, with comments; to FILE, if that is new."""
    text = (resources.files("lab.topology") / "example.yml").read_text()
    if file is None:
        click.echo(text, nl=False)
        return
    try:
        with file.open("x") as new:
            new.write(text)
    except FileExistsError as error:
        raise click.ClickException(f"{file} is there already") from error


@subcommand("up", "up demo.yml", "up            # after a reboot")
@click.argument("file", type=click.Path(path_type=Path), required=False)
@chosen_lab
def up(chosen: Chosen, file: Path | None) -> None:
    """Start the lab of a FILE; without one, what does not run of the lab that there is."""
    from lab.actions import up as start

    for line in start(chosen.root, chosen.name, file):
        click.echo(line)


@subcommand("apply", "apply demo.yml")
@click.argument("file", type=click.Path(path_type=Path))
@chosen_lab
def apply(chosen: Chosen, file: Path) -> None:
    """Make a running lab as a changed FILE says; what the file does not change is not touched."""
    from lab.actions import apply as carry_out

    for line in carry_out(chosen.root, chosen.name, file):
        click.echo(line)


@subcommand("save", "save demo.lab")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@chosen_lab
def save(chosen: Chosen, file: Path) -> None:
    """Write the lab, with all data of its nodes at one moment, to a FILE."""
    from lab.actions import save as write

    size = write(chosen.lab().places, file.absolute())
    click.echo(f"{file}: {size / 1e6:.1f} MB")


@subcommand("load", "load demo.lab", "--lab copy load demo.lab")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@chosen_lab
def load(chosen: Chosen, file: Path) -> None:
    """Make a lab of a FILE that `save` wrote, and start it, with the containers that ran."""
    from lab.actions import load as read

    for line in read(chosen.root, chosen.name, file):
        click.echo(line)


@subcommand("down", "down")
@chosen_lab
def down(chosen: Chosen) -> None:
    """End the lab, and leave nothing of it."""
    from lab.actions import down as end

    end(chosen.root, chosen.name)
