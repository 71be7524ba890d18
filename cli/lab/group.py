"""The group of `davit lab`, and what its commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from lab.lab import Lab

Function = TypeVar("Function", bound=Callable[..., Any])
_ROOT = "/var/lib/davit-lab"


class Chosen:
    """The lab that a command means, from the options of the group."""

    def __init__(self, root: Path, name: str | None) -> None:
        self.root = root.absolute()
        self.name = name

    def lab(self) -> Lab:
        """Raises NotFound when there is none, InvalidArgument when there are several."""
        from lab.lab import Lab
        from lab.places import existing

        return Lab(existing(self.root, self.name))


@click.group("lab")
@click.option("--root", type=click.Path(path_type=Path), default=_ROOT, envvar="DAVIT_LAB_ROOT", show_default=True,
              help="Where labs keep their data.")  # fmt: skip
@click.option("--lab", "name", metavar="NAME", envvar="DAVIT_LAB", help="Which lab, when there are several.")
@click.pass_context
def command(context: click.Context, root: Path, name: str | None) -> None:
    """Run clusters on this machine, for development, tests and trials.

    See docs/guide/lab.md.
    """
    context.obj = Chosen(root, name)


def _told(function: Callable[..., Any]) -> Callable[..., Any]:
    """What the kernel refuses is told in a line, as any other error of ours."""

    @functools.wraps(function)
    def run(*arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        except Exception as error:
            from services.executor.runtime.errors import RuntimeFailure
            from shared.errors import Internal

            if isinstance(error, OSError | RuntimeFailure) and not isinstance(error, BrokenPipeError):
                raise Internal(str(error)) from error
            raise

    return run


def subcommand(name: str, *examples: str, **attributes: Any) -> Callable[[Callable[..., Any]], click.Command]:
    """A command of the group, with examples in its help."""
    epilog = "\b\nExamples:\n" + "\n".join(f"  davit lab {example}" for example in examples)
    declare = command.command(name, epilog=epilog, **attributes)
    return lambda function: declare(_told(function))


chosen_lab = click.make_pass_decorator(Chosen)
