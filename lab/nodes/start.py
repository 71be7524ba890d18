"""Starts processes in nodes: the first one, which makes the node's namespaces, and later ones, which enter them.

::

    davit lab ── fork ─► child: joins the node's control group, makes namespaces, says so
       binds the namespaces, moves the wires in ◄─┘
       lets it go on ─► furnishes the mount namespace, becomes `davit up --detach`
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from lab.nodes.cgroups import ENGINE, Cgroup, Hierarchies
from lab.nodes.join import Daemon
from lab.nodes.machine import Machine, furnish, leave_home
from lab.nodes.namespaces import KINDS, Namespaces
from services.executor.runtime.kernel import calls
from shared.errors import Internal

_LAST_LINES = 5
_CONTAINER = (
    calls.CLONE_NEWNS | calls.CLONE_NEWUTS | calls.CLONE_NEWNET | calls.CLONE_NEWIPC | calls.CLONE_NEWPID
    | calls.CLONE_NEWCGROUP
)  # fmt: skip


@dataclass
class Starting:
    """A node's first process, which waits to be let go on, and then runs a command."""

    node: str
    pid: int
    go: int
    log: Path

    def let_go(self) -> None:
        """The node's namespaces are bound and have their wires."""
        os.write(self.go, b"g")
        os.close(self.go)

    def wait(self) -> None:
        """Wait for the command's end. Raises Internal with the end of what it wrote when it failed."""
        _, status = os.waitpid(self.pid, 0)
        if status:
            said = self.log.read_text(errors="replace").strip().splitlines()[-_LAST_LINES:]
            raise Internal(f"node {self.node} does not start: {' / '.join(said) or f'status {status}'}")


def begin(
    node: str, machine: Machine, hierarchies: Hierarchies, become: Callable[[], NoReturn], environment: dict[str, str],
    beside: Sequence[Daemon], log: Path,
) -> Starting:  # fmt: skip
    """Fork the node's first process; returns when its namespaces are there. Raises Internal."""
    ready, say_ready = os.pipe()
    hear_go, go = os.pipe()

    def live() -> None:
        leave_home(machine)
        os.write(say_ready, b"r")
        if os.read(hear_go, 1) != b"g":
            os._exit(1)  # whoever started this is gone
        furnish(machine, hierarchies)
        os.chdir("/")
        for daemon in beside:
            subprocess.Popen(daemon.command, env={**environment, **daemon.environment}, stdin=subprocess.DEVNULL,
                             start_new_session=True)  # fmt: skip
        become()

    pid = _forked(live, log, {say_ready, hear_go})
    os.close(say_ready)
    os.close(hear_go)
    said = os.read(ready, 1)
    os.close(ready)
    starting = Starting(node, pid, go, log)
    if said != b"r":
        os.close(go)
        starting.wait()
        raise Internal(f"node {node} does not start: see {log}")
    return starting


def _forked(work: Callable[[], None], log: Path, kept: set[int]) -> int:
    """A child that does the work with its output in a file, and does not return from it; its pid.

    Args:
        kept: Descriptors that it needs. All others are closed: what goes on as a fork would hold the lab's lock.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    try:
        for descriptor in map(int, os.listdir("/proc/self/fd")):
            if descriptor > 2 and descriptor not in kept:
                with contextlib.suppress(OSError):  # that of the listing itself
                    os.close(descriptor)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        null = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((null, 0), (output, 1), (output, 2)):
            os.dup2(source, target)
        os.close(output)
        os.close(null)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.setsid()
        work()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(1)


def bind(namespaces: Namespaces, starting: Starting) -> None:
    namespaces.bind(starting.node, starting.pid, tuple(KINDS))


@dataclass(frozen=True)
class Entrance:
    """The way into a node for a process with one thread: `go` moves it in; `environment` is what it finds there."""

    go: Callable[[], None]
    environment: dict[str, str]

    @classmethod
    def of_machine(
        cls, namespaces: Namespaces, cgroup: Cgroup, node: str, environment: dict[str, str]
    ) -> Entrance:  # fmt: skip
        """Into a node that has an engine."""

        def go() -> None:
            cgroup.child(ENGINE).join()
            namespaces.enter(node)
            os.chdir("/")

        return cls(go, environment)

    @classmethod
    def of_container(cls, cgroup: Cgroup) -> Entrance:
        """Into a plain container; its children, not the process itself, are in its process namespace."""
        first = min(cgroup.pids())
        held = os.pidfd_open(first)
        variables = Path(f"/proc/{first}/environ").read_text(errors="surrogateescape").split("\0")
        environment = dict(text.split("=", 1) for text in variables if "=" in text)
        group = next(path for path in Path(f"/proc/{first}/cgroup").read_text().splitlines()).rpartition(":")[2]
        inside = Cgroup(cgroup.hierarchies, group.strip("/"))

        def go() -> None:
            inside.join()
            calls.setns(held, _CONTAINER, f"process {first}")
            os.chdir("/")

        return cls(go, environment)


def run_in(entrance: Entrance, node: str, command: Sequence[str]) -> str:
    """Run a command in a node; its output. Raises Internal with what it said when it fails."""
    done = subprocess.run(
        command, env=entrance.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
        check=False, preexec_fn=entrance.go,  # one thread
    )  # fmt: skip
    if done.returncode:
        said = (done.stdout + done.stderr).strip().splitlines()[-_LAST_LINES:]
        raise Internal(f"{node}: {' '.join(command)} ends with {done.returncode}: {' / '.join(said)}")
    return done.stdout


def environment_of(host: str) -> dict[str, str]:
    """The environment of a node's processes: this one's, without what points to other engines."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("DAVIT_", "DOCKER_"))}
    return clean | {"DOCKER_HOST": host, "PYTHONSAFEPATH": "1"}
