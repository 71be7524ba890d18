"""Which engine a command means: ``--run-dir`` or ``--host``, else DOCKER_HOST, else what the configuration says.

The options may stand before the command or after it. A command that asks the API takes `EngineClient`; one that looks
at the engine's processes takes the run directory, which DOCKER_HOST gives when it names a socket of that engine.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from shared.errors import InvalidArgument

if TYPE_CHECKING:
    from shared.docker.client import EngineClient

Result = TypeVar("Result")
DEFAULT_RUN_DIR = "/run/davit"


class Engine:
    """The engine that a command means; not yet asked for anything.

    Args:
        run_dir: Given on the command line; None when not.
        host: ``unix://…`` or ``tcp://…`` given on the command line; None when not.
    """

    def __init__(self, run_dir: str | None, host: str | None) -> None:
        if run_dir and host:
            raise click.UsageError("--run-dir and --host both say which engine is meant: give one of them")
        self._run_dir, self._host = run_dir, host

    def client(self) -> EngineClient:
        """Its API. Raises InvalidArgument when what names it is no address of one."""
        from shared.docker.client import EngineClient

        return EngineClient(self.host)

    @property
    def host(self) -> str:
        """Where its API is, as DOCKER_HOST spells it."""
        if self._run_dir:
            return f"unix://{Path(self._run_dir).absolute()}/docker.sock"
        named = self._host or os.environ.get("DOCKER_HOST")
        return named or f"unix://{configured_run_dir()}/docker.sock"

    @property
    def run_dir(self) -> Path:
        """Where its processes are written down.

        Raises:
            InvalidArgument: ``--host`` or DOCKER_HOST names an engine whose run directory cannot be told from it.
        """
        if self._run_dir:
            return Path(self._run_dir).absolute()
        named = self._host or os.environ.get("DOCKER_HOST")
        return configured_run_dir() if not named else _run_dir_behind(named)


def _run_dir_behind(host: str) -> Path:
    from supervisor.state import EngineState

    if host.startswith("unix://"):
        path = Path(os.path.realpath(host.removeprefix("unix://")))
        if path.name == "docker.sock" and (not path.exists() or (path.parent / "spec.json").exists()):
            return path.parent
    configured = configured_run_dir()
    state = EngineState.read(configured)
    if state is not None and host in state.hosts:
        return configured
    raise InvalidArgument(
        f"{host} (--host or DOCKER_HOST) does not say where that engine's processes are: give its --run-dir"
    )


def configured_run_dir() -> Path:
    """What environment and configuration file say; the models of the configuration are loaded only if there is one."""
    named = os.environ.get("DAVIT_CONFIG_FILE")
    if not named and not os.path.exists("/etc/davit/daemon.json"):
        return Path(os.environ.get("DAVIT_RUN_DIR") or DEFAULT_RUN_DIR)
    from shared.config import EngineConfig

    return EngineConfig.load().run_dir


def where_options(function: Callable[..., Result]) -> Callable[..., Result]:
    """Adds ``--run-dir`` and ``-H/--host``."""
    function = click.option(
        "--run-dir", metavar="DIR", help="The engine's run directory.  [default: DOCKER_HOST's, or /run/davit]"
    )(function)
    return click.option("-H", "--host", metavar="URL", help="The engine's address: unix://… or tcp://….")(function)


def engine_options(function: Callable[..., Result]) -> Callable[..., Result]:
    """Adds `where_options`; the command gets an `Engine` as ``engine``."""

    @functools.wraps(function)
    def with_engine(*arguments: Any, run_dir: str | None, host: str | None, **options: Any) -> Result:
        if run_dir is None and host is None:
            before = click.get_current_context().find_root().params
            run_dir, host = before.get("run_dir"), before.get("host")
        return function(*arguments, engine=Engine(run_dir, host), **options)

    return where_options(with_engine)
