"""Settings of the engine as options: a flag and the attribute of `shared.config.EngineConfig` that it gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import click

from shared.errors import InvalidArgument

Function = TypeVar("Function", bound=Callable[..., Any])
DIRECTORIES = ("data_root", "run_dir")


class Flag(NamedTuple):
    """An option that gives a setting.

    Attributes:
        names: As they are typed: ``-l``, ``--log-level``.
        setting: The attribute of the configuration.
        help: What it does.
        metavar: What its value is; empty for a switch, which may also be ``--name=false``.
        several: Whether it may be given several times, for a list.
        choices: The values that there are.
        read: Makes the setting of the values of a flag that may be given several times.
    """

    names: Sequence[str]
    setting: str
    help: str
    metavar: str = ""
    several: bool = False
    choices: Sequence[str] = ()
    read: Callable[[Sequence[str]], Any] = list

    @property
    def parameter(self) -> str:
        return f"setting_{self.setting}"

    def option(self) -> Callable[[Function], Function]:
        """The option for a click command."""
        if not self.metavar and not self.choices:
            return click.option(
                *self.names, self.parameter, is_flag=False, flag_value="true", type=bool, metavar="[=BOOL]",
                help=self.help,
            )  # fmt: skip
        kind: Any = click.Choice(self.choices) if self.choices else str
        metavar = self.metavar or None
        return click.option(
            *self.names, self.parameter, type=kind, metavar=metavar, multiple=self.several, help=self.help
        )


def setting_options(flags: Sequence[Flag]) -> Callable[[Function], Function]:
    """Adds them to a command, in this order; it takes ``**given`` and hands that to `settings_of`."""

    def add(function: Function) -> Function:
        for flag in reversed(flags):
            function = flag.option()(function)
        return function

    return add


def settings_of(flags: Sequence[Flag], given: Mapping[str, Any]) -> dict[str, Any]:
    """What was given, by setting; paths absolute, since the engine outlives the shell's directory."""
    settings: dict[str, Any] = {}
    for flag in flags:
        value = given[flag.parameter]
        if value is None or value == ():
            continue
        if flag.several:
            value = flag.read(value)
        settings[flag.setting] = Path(value).absolute() if flag.setting in DIRECTORIES else value
    return settings


def runtimes(texts: Sequence[str]) -> dict[str, dict[str, str]]:
    """Alternative runtimes from ``name=path``. Raises InvalidArgument."""
    found = {}
    for text in texts:
        name, separator, path = text.partition("=")
        if not separator or not name or not path:
            raise InvalidArgument(f"--add-runtime: {text!r} is not of the form name=path")
        found[name] = {"path": path}
    return found


LEVELS = ("debug", "info", "warn", "error", "fatal")
LISTENING = [
    Flag(("-H", "--host"), "hosts", "Listen here: unix://… or tcp://….", "URL", several=True),
    Flag(("-G", "--group"), "group", "The group that may use the unix socket.", "GROUP"),
    Flag(("--tls",), "tls", "TLS on TCP addresses."),
    Flag(("--tlsverify",), "tlsverify", "TLS, and only clients whose certificate the CA has signed."),
    Flag(("--tlscacert",), "tlscacert", "The CA of the clients' certificates.", "FILE"),
    Flag(("--tlscert",), "tlscert", "The certificate of this engine.", "FILE"),
    Flag(("--tlskey",), "tlskey", "Its key.", "FILE"),
]
LOGGING = [
    Flag(("-l", "--log-level"), "log_level", "What is logged.", choices=LEVELS),
    Flag(("--log-format",), "log_format", "How it is logged.", choices=("text", "json")),
    Flag(("-D", "--debug"), "debug", "Log everything."),
]
IMAGES = [
    Flag(("--registry-mirror",), "registry_mirrors", "Pull from here first.", "URL", several=True),
    Flag(("--insecure-registry",), "insecure_registries", "Speak to it without TLS.", "HOST", several=True),
]
RUNNING = [
    Flag(("--label",), "labels", "A label of this node.", "KEY=VALUE", several=True),
    Flag(("--add-runtime",), "runtimes", "Another OCI runtime.", "NAME=PATH", several=True, read=runtimes),
    Flag(("--default-runtime",), "default_runtime", "Of containers that do not name one.  [default: davit]", "NAME"),
]
