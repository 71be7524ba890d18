"""Command line options as runc takes them. Small, because the module for it would cost half of a container's start.

`-b DIR`, `--bundle DIR`, `--bundle=DIR` and, as Go's flags have it, `-bundle DIR` are the same. Options may follow
arguments (`update ID --memory 1g`), except where what follows is another program's command line; `--` ends them.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class UsageError(Exception):
    """The command line makes no sense."""


class Option:
    """One option.

    Attributes:
        names: without dashes, the long one first.
        kind: "flag", "text", "int" or "list" (may be repeated).
    """

    __slots__ = ("default", "help", "kind", "names")

    def __init__(self, names: str, kind: str, text: str, default: Any = None) -> None:
        self.names = names.split()
        self.kind = kind
        self.help = text
        self.default = {"flag": False, "list": []}.get(kind) if default is None else default

    def shown(self) -> str:
        """How the help writes it: "--bundle value, -b value"."""
        value = "" if self.kind == "flag" else " value"
        return ", ".join(("-" if len(name) == 1 else "--") + name + value for name in self.names)


def parse(
    options: tuple[Option, ...], arguments: list[str], *, mixed: bool = False
) -> tuple[dict[str, Any], list[str]]:
    """Values by long name with underscores, and what is left.

    Args:
        mixed: options are taken from between and behind the arguments too.

    Raises:
        UsageError: an unknown option, a missing or wrong value.
    """
    known = {name: option for option in options for name in option.names}
    values = {option.names[0].replace("-", "_"): option.default for option in options}
    rest = list(arguments)
    positional: list[str] = []
    while rest:
        word = rest.pop(0)
        if word == "--":
            break
        if not word.startswith("-") or word == "-":
            positional.append(word)
            if mixed:
                continue
            break
        name, separator, value = word.lstrip("-").partition("=")
        option = known.get(name)
        if option is None:
            raise UsageError(f"flag provided but not defined: -{name}")
        key = option.names[0].replace("-", "_")
        if option.kind == "flag":
            values[key] = not separator or value.lower() in {"1", "t", "true"}
            continue
        if not separator:
            if not rest:
                raise UsageError(f"flag needs an argument: -{name}")
            value = rest.pop(0)
        values[key] = _converted(option, name, value, values[key])
    return values, positional + rest


def _converted(option: Option, name: str, value: str, before: Any) -> Any:
    if option.kind == "list":
        return [*before, value]
    if option.kind == "int":
        try:
            return int(value, 0)
        except ValueError:
            raise UsageError(f'invalid value "{value}" for flag -{name}: parse error') from None
    return value


def usage(command: str, arguments: str, text: str, options: tuple[Option, ...]) -> str:
    """The help of one command."""
    lines = ["NAME:", f"   davit-runc {command} - {text}", "", "USAGE:"]
    lines += [f"   davit-runc {command} [command options] {arguments}".rstrip(), "", "OPTIONS:"]
    for option in options:
        lines.append(f"   {option.shown():32} {option.help}")
    return "\n".join(lines) + "\n"
