"""Groups of commands whose modules are imported only when one of them runs.

A group knows of each command its name, the module it is in, and its one line of help; so the group's own help and its
completion import no command. The module has the click command, or a further group, as its attribute ``command``.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, NamedTuple

import click
from click.shell_completion import CompletionItem


class Lazy(NamedTuple):
    """Where a command is, and what the group's help says of it.

    Attributes:
        module: Dotted name; its attribute ``command`` is the command.
        summary: One line, as the command's own help begins.
        section: The heading below which the group's help lists it.
    """

    module: str
    summary: str
    section: str = "Commands"

    def load(self) -> click.Command:
        """The command itself, its module imported."""
        command: click.Command = import_module(self.module).command
        return command


class LazyGroup(click.Group):
    """A group of `Lazy` commands, beside those that are added to it as to any group of click's."""

    def __init__(self, *args: Any, lazy: Mapping[str, Lazy] | None = None, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.lazy = dict(lazy or {})

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.lazy, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in self.lazy:
            return self.lazy[cmd_name].load()
        return super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for name, entry in self.lazy.items():
            sections.setdefault(entry.section, []).append((name, entry.summary))
        for name, command in self.commands.items():
            if not command.hidden:
                sections.setdefault("Commands", []).append((name, command.get_short_help_str(limit=100)))
        for heading, rows in sections.items():
            with formatter.section(heading):
                formatter.write_dl(rows)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        names = [CompletionItem(name, help=entry.summary) for name, entry in self.lazy.items()]
        names += [CompletionItem(name) for name in self.commands]
        found = [item for item in names if item.value.startswith(incomplete)]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]
