"""Starting an engine: check, lock, write down what was decided, then become its guardian or leave one behind.

::

    here ── exec ─► guardian                                     in the foreground
    here ── fork ─► new session ── exec ─► guardian               detached: here waits for "ready" and pings the API
"""

from __future__ import annotations

import http.client
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from shared.cluster.membership import Membership
from shared.config import EngineConfig
from shared.errors import Conflict, InvalidArgument
from supervisor import checks, enginelog, pidfile
from supervisor.__main__ import Spec, guardian_command, supervise
from supervisor.instance import instance_of
from supervisor.process import detach
from supervisor.state import EngineLock, EngineState

PATIENCE_S = 5.0


class StartRefused(Exception):
    """The engine in the background could not start. `code`: its exit code."""

    def __init__(self, reason: str, code: int) -> None:
        super().__init__(reason)
        self.code = code


def prepare(
    config: EngineConfig, services: list[str], flags: Mapping[str, Any], file: Path | None, *, tied: bool = False
) -> None:
    """Make sure that an engine can run here, and write down what it is to be.

    Args:
        flags: The settings that were given on the command line, by attribute name.
        file: The configuration file that was given there.
        tied: The engine is to end when this process is killed.

    Raises:
        Conflict: Another engine has the run directory or the data root.
        Forbidden, Unsupported: This process or kernel cannot.
    """
    checks.check_root()
    if "agent" in services:
        checks.check_kernel()
    checks.check_paths(config.data_root, config.run_dir)
    locks = _lock(config, services, patience_s=PATIENCE_S if tied else 0.0)
    if not config.instance:
        config = config.model_copy(update={"instance": instance_of(config.data_root)})
    if config.pidfile:
        pidfile.claim(Path(config.pidfile))
    environment = config.environment({**flags, "instance": config.instance})
    if file is not None:
        environment["DAVIT_CONFIG_FILE"] = str(file)
    for lock in locks:
        os.set_inheritable(lock.descriptor, True)
    Spec(services, environment, [lock.descriptor for lock in locks], tied).write(config.run_dir)


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


def as_member(
    membership: Membership, config: EngineConfig, services: str | None, flags: Mapping[str, Any]
) -> tuple[EngineConfig, list[str], dict[str, Any]]:
    """What an engine is to be whose data root is a cluster's node: its agent alone, on the managers' bus.

    Args:
        services: What ``--services`` said, if it was given.

    Returns:
        Configuration, services and flags, as `prepare` takes them.

    Raises:
        InvalidArgument: Another name, bus or service was asked for.
    """
    for flag, value in (("--services", services), ("--nats", flags.get("nats_url"))):
        if value and value != "agent":
            raise InvalidArgument(f"{flag} {value}: this is a node of a cluster; it has an agent, on its managers' bus")
    if flags.get("node", membership.node) != membership.node:
        raise InvalidArgument(f"--node {flags['node']}: this machine joined its cluster as {membership.node}")
    settings = {"node": membership.node, "nats_url": membership.bus_url}
    return config.model_copy(update=settings), ["agent"], {**flags, **settings}


def _lock(config: EngineConfig, services: list[str], patience_s: float) -> list[EngineLock]:
    """Claim the run directory, and the data root for who owns what is in it; all or none.

    Args:
        patience_s: How long an engine that is ending may take to let go of them.

    Raises:
        Conflict: Another engine has one of them.
    """
    locks: list[EngineLock] = []
    # A second copy of some services on the bus of another engine may share its data root.
    owner = not config.nats_url or "agent" in services
    directories = (config.run_dir, config.data_root) if owner else (config.run_dir,)
    for directory in dict.fromkeys(directories):
        lock = EngineLock(directory)
        give_up_at = time.monotonic() + patience_s
        while not (held_now := lock.acquire()) and _is_ending(config.run_dir) and time.monotonic() < give_up_at:
            time.sleep(0.02)
        if not held_now:
            for held in locks:
                held.close()
            state = EngineState.read(config.run_dir)
            whose = f" (supervisor pid {state.processes['supervisor'].pid})" if state and state.processes else ""
            raise Conflict(f"davit is already running in {directory}{whose}: see davit status, or davit down first")
        locks.append(lock)
    return locks


def _is_ending(run_dir: Path) -> bool:
    """Whether the first process of the engine that has the lock is gone: the others follow it."""
    state = EngineState.read(run_dir)
    guardian = state.processes.get("guardian") if state is not None else None
    return guardian is None or guardian.identity is None or not guardian.identity.alive


def become_guardian(config: EngineConfig, announce: int | None = None) -> NoReturn:
    """Go on as the guardian of the engine that was prepared."""
    command = guardian_command(config.run_dir, Spec.read(config.run_dir).locks, announce=announce)
    os.execv(command[0], command)


def start_detached(config: EngineConfig, services: list[str], *, warm: bool = False) -> str:
    """Leave the engine in the background once it has announced itself; where it is, in words.

    Args:
        warm: This process has imported what the services need (`supervisor.warm`): the supervisor is a fork of it, and
            shares that memory with all others. It is started anew as always when it ends.

    Raises:
        StartRefused: It cannot start; the reason names its log.
        Conflict: It started, and the API does not answer.
    """
    reader, writer = os.pipe()
    log = enginelog.path_of(config.data_root)
    enginelog.rotate_if_large(log)
    if os.fork() == 0:
        try:
            os.close(reader)
            os.set_inheritable(writer, True)
            detach(log)
            if warm:
                os._exit(supervise(config.run_dir, None, writer, first=True))
            become_guardian(config, writer)
        finally:
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        answer = pipe.readline().strip()
    if answer != "ready":
        code, _, reason = answer.removeprefix("error ").partition(" ")
        text = f"{reason or 'the engine ended while it was starting'} (log: {log})"
        raise StartRefused(text, int(code) if code.isdigit() else 1)
    if "api" not in services:
        return ", ".join(services)
    _ping(config)
    return " ".join(config.api_hosts)


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
