"""`davit up`: check, lock, then guard a supervisor; in the background with ``--detach``."""

from __future__ import annotations

import argparse
import http.client
import os
import socket
import sys
from pathlib import Path
from typing import Any, NoReturn

from shared.bus.health import SERVICES
from shared.config import EngineConfig
from shared.errors import Conflict, InvalidArgument
from supervisor import checks, enginelog
from supervisor.__main__ import Spec, guardian_command
from supervisor.process import detach
from supervisor.state import EngineLock, EngineState

EXIT_FAILURE = 1
# Flag -> the setting it gives.
_SETTINGS = {
    "data_root": "data_root",
    "run_dir": "run_dir",
    "nats": "nats_url",
    "database": "database_url",
    "host": "hosts",
    "node": "node",
    "group": "group",
    "log_level": "log_level",
    "log_format": "log_format",
    "debug": "debug",
    "registry_mirror": "registry_mirrors",
    "insecure_registry": "insecure_registries",
    "label": "labels",
    "add_runtime": "runtimes",
    "default_runtime": "default_runtime",
    "tls": "tls",
    "tlsverify": "tlsverify",
    "tlscacert": "tlscacert",
    "tlscert": "tlscert",
    "tlskey": "tlskey",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data-root", metavar="DIR", help="where images, containers and databases are kept")
    parser.add_argument("--run-dir", metavar="DIR", help="sockets and process state (default /run/davit)")
    parser.add_argument("-d", "--detach", action="store_true", help="return when the engine answers")
    parser.add_argument("--services", metavar="A,B", help=f"only these of {','.join(SERVICES)}")
    parser.add_argument("--nats", metavar="URL", help="an existing message bus instead of the embedded one")
    parser.add_argument("--database", metavar="URL", help="postgresql://… instead of SQLite files")
    parser.add_argument("-H", "--host", action="append", metavar="URL", help="listen here: unix://… or tcp://…")
    parser.add_argument("-G", "--group", help="the group that may use the unix socket")
    parser.add_argument("--config-file", metavar="FILE", help="default /etc/davit/daemon.json")
    parser.add_argument("--node", metavar="NAME", help="this machine's name (default: its host name)")
    parser.add_argument("-l", "--log-level", choices=["debug", "info", "warn", "error", "fatal"])
    parser.add_argument("--log-format", choices=["text", "json"])
    parser.add_argument("-D", "--debug", action="store_true", default=None)
    parser.add_argument("--registry-mirror", action="append", metavar="URL")
    parser.add_argument("--insecure-registry", action="append", metavar="HOST")
    parser.add_argument("--label", action="append", metavar="KEY=VALUE")
    parser.add_argument("--add-runtime", action="append", metavar="NAME=PATH", help="another OCI runtime")
    parser.add_argument("--default-runtime", metavar="NAME", help="of containers that do not name one (default davit)")
    parser.add_argument("--tls", action=argparse.BooleanOptionalAction, default=None)
    parser.add_argument("--tlsverify", action=argparse.BooleanOptionalAction, default=None)
    for name in ("tlscacert", "tlscert", "tlskey"):
        parser.add_argument(f"--{name}", metavar="FILE")


def up(arguments: argparse.Namespace) -> int:
    """Start the engine: with --detach, 0 once it answers; else this process becomes its guardian."""
    file = Path(arguments.config_file).absolute() if arguments.config_file else None
    flags = settings_of(arguments)
    config = EngineConfig.load(file=file, flags=flags)
    services = chosen_services(arguments.services)
    checks.check_root()
    if "agent" in services:
        checks.check_kernel()
    checks.check_paths(config.data_root, config.run_dir)
    locks = _lock(config, services)
    environment = config.environment(flags)
    if file is not None:
        environment["DAVIT_CONFIG_FILE"] = str(file)
    for lock in locks:
        os.set_inheritable(lock.descriptor, True)
    Spec(services, environment, [lock.descriptor for lock in locks]).write(config.run_dir)
    return _up_detached(config, services) if arguments.detach else _become_guardian(config, None)


def settings_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings given as flags; paths absolute, since the engine outlives the shell's directory."""
    flags: dict[str, Any] = {}
    for flag, setting in _SETTINGS.items():
        value = getattr(arguments, flag, None)
        if value is not None:
            flags[setting] = Path(value).absolute() if setting in ("data_root", "run_dir") else value
    if "runtimes" in flags:
        flags["runtimes"] = dict(_runtime(text) for text in flags["runtimes"])
    return flags


def _runtime(text: str) -> tuple[str, dict[str, str]]:
    """An alternative runtime from ``name=path``. Raises InvalidArgument."""
    name, separator, path = text.partition("=")
    if not separator or not name or not path:
        raise InvalidArgument(f"--add-runtime: {text!r} is not of the form name=path")
    return name, {"path": path}


def chosen_services(text: str | None) -> list[str]:
    """The services of ``a,b``, or all, in the order in which they are started.

    Raises:
        InvalidArgument: A name is not a service.
    """
    from supervisor.warm import ENTRIES

    names = [name.strip() for name in text.split(",") if name.strip()] if text else list(ENTRIES)
    for name in names:
        if name not in ENTRIES:
            raise InvalidArgument(f"--services: unknown service {name}; there are {', '.join(ENTRIES)}")
    return [name for name in ENTRIES if name in names]


def _lock(config: EngineConfig, services: list[str]) -> list[EngineLock]:
    """Claim the run directory, and the data root for who owns what is in it; all or none.

    Raises:
        Conflict: Another engine has one of them.
    """
    locks: list[EngineLock] = []
    # A second copy of some services on the bus of another engine may share its data root.
    owner = not config.nats_url or "agent" in services
    directories = (config.run_dir, config.data_root) if owner else (config.run_dir,)
    for directory in dict.fromkeys(directories):
        lock = EngineLock(directory)
        if not lock.acquire():
            for held in locks:
                held.close()
            state = EngineState.read(config.run_dir)
            whose = f" (supervisor pid {state.processes['supervisor'].pid})" if state and state.processes else ""
            raise Conflict(f"davit is already running in {directory}{whose}: see davit status, or davit down first")
        locks.append(lock)
    return locks


def _become_guardian(config: EngineConfig, announce: int | None) -> NoReturn:
    command = guardian_command(config.run_dir, announce=announce)
    os.execv(command[0], command)


def _up_detached(config: EngineConfig, services: list[str]) -> int:
    """Leave the engine in the background once it has announced itself; what it announced decides the exit code."""
    reader, writer = os.pipe()
    log = _log_file(config)
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reader)
            os.set_inheritable(writer, True)
            detach(log)
            _become_guardian(config, writer)
        finally:
            os._exit(EXIT_FAILURE)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        answer = pipe.readline().strip()
    if answer == "ready":
        if "api" in services:
            _ping(config)
        where = " ".join(config.api_hosts) if "api" in services else ", ".join(services)
        print(f"davit is ready: {where}")
        return 0
    code, _, reason = answer.removeprefix("error ").partition(" ")
    print(f"davit: {reason or 'the engine ended while it was starting'} (log: {log})", file=sys.stderr)
    return int(code) if code.isdigit() else EXIT_FAILURE


def _log_file(config: EngineConfig) -> Path:
    log = enginelog.path_of(config.data_root)
    enginelog.rotate_if_large(log)
    return log


def _ping(config: EngineConfig) -> None:
    """The last word: a request through the socket.

    Raises:
        Conflict: The API does not answer it.
    """
    path = next((host.removeprefix("unix://") for host in config.api_hosts if host.startswith("unix://")), None)
    if path is None:
        return
    connection = http.client.HTTPConnection("localhost", timeout=10)
    connection.sock = socket.socket(socket.AF_UNIX)
    try:
        connection.sock.settimeout(10)
        connection.sock.connect(path)
        connection.request("GET", "/_ping")
        status = connection.getresponse().status
    except OSError as error:
        raise Conflict(f"the engine started, but {path} does not answer: {error}") from error
    finally:
        connection.close()
    if status != 200:
        raise Conflict(f"the engine started, but answers a ping on {path} with status {status}")
