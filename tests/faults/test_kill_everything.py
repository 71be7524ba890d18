"""kill -9 of every engine process in turn, under load: nothing that runs, was printed, or was promised is lost."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from io import BufferedRWPair
from pathlib import Path
from typing import Any

import pytest

from tests.lab.debian import redis_image
from tests.lab.engine import Engine, eventually

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

ANSWERS_WITHIN_S = 10.0
LINES = "i=0; while :; do echo line $i; i=$((i+1)); sleep 0.01; done"


class Writer(threading.Thread):
    """Writes counted keys to Redis over its published port; remembers which were acknowledged."""

    def __init__(self, engine: Engine, port: int) -> None:
        super().__init__(daemon=True)
        self._netns = f"/run/netns/{engine.netns.name}"
        self._port = port
        self.acknowledged = 0
        self.stop = threading.Event()
        self.failures: list[str] = []

    def run(self) -> None:
        with _connect_inside(self._netns, self._port) as connection, connection.makefile("rwb") as file:
            self._write(file)

    def _write(self, file: BufferedRWPair) -> None:
        while not self.stop.is_set():
            number = self.acknowledged
            file.write(f"SET key:{number} {number}\r\n".encode())
            file.flush()
            answer = file.readline()
            if answer != b"+OK\r\n":
                self.failures.append(f"{number}: {answer!r}")
                return
            self.acknowledged += 1
            time.sleep(0.002)


def _connect_inside(netns: str, port: int) -> socket.socket:
    """A TCP connection made inside a network namespace; the socket then works from any thread."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(netns, os.O_RDONLY)
    try:
        if libc.setns(there, 0) != 0:
            raise OSError(ctypes.get_errno(), "setns")
        return socket.create_connection(("127.0.0.1", port), 10)
    finally:
        libc.setns(home, 0)
        os.close(home)
        os.close(there)


@pytest.fixture
def busy(engine: Engine) -> Iterator[tuple[Engine, Writer]]:
    """Redis under writes, and a container that prints numbered lines."""
    redis_image(engine)
    engine.docker("volume", "create", "redis")
    engine.docker("run", "-d", "--name", "db", "-v", "redis:/var/lib/redis", "-p", "16379:6379", "redis-lab")
    engine.docker("run", "-d", "--name", "lines", "busybox", "sh", "-c", LINES)
    eventually(lambda: "PONG" in engine.docker("exec", "db", "redis-cli", "ping", check=False).stdout, 15)
    writer = Writer(engine, 16379)
    writer.start()
    yield engine, writer
    writer.stop.set()
    writer.join(10)


def container_pids(engine: Engine) -> dict[str, int]:
    return {name: int(engine.docker("inspect", "-f", "{{.State.Pid}}", name).stdout) for name in ("db", "lines")}


def ps_answers(engine: Engine) -> bool:
    result = engine.docker("ps", "--format", "{{.Names}}", check=False, timeout_s=ANSWERS_WITHIN_S)
    return set(result.stdout.split()) >= {"db", "lines"}


def logged_numbers(engine: Engine) -> list[int]:
    text = engine.docker("logs", "lines").stdout
    return [int(match[1]) for match in re.finditer(r"^line (\d+)$", text, re.MULTILINE)]


def works_again(engine: Engine) -> str:
    return str(
        eventually(
            lambda: engine.docker("run", "--rm", "busybox", "echo", "works", check=False).stdout, ANSWERS_WITHIN_S
        )
    )


def zygote_of(agent: int) -> int:
    """The pid of the agent's child that forks shims; the next order after its death starts another."""
    tasks = Path(f"/proc/{agent}/task").iterdir()
    children = [int(pid) for task in tasks for pid in (task / "children").read_text().split()]
    zygotes = [pid for pid in children if b"launch.zygote" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(zygotes) == 1, f"{len(zygotes)} zygotes among the agent's children {children}"
    return zygotes[0]


def test_every_process_can_be_killed(busy: tuple[Engine, Writer]) -> None:
    engine, writer = busy
    begin = time.time() - 60
    before = container_pids(engine)
    for name in sorted(engine.pids()):
        pid = engine.pids().get(name)
        if not pid:
            continue
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: ps_answers(engine), ANSWERS_WITHIN_S, f"docker ps after the death of {name}")
        gone = (None, 0, pid)
        eventually(lambda: engine.pids().get(name) not in gone, 15, f"the return of {name}")  # noqa: B023
        assert container_pids(engine) == before, f"a container ended with {name}"
        assert all(Path(f"/proc/{one}").exists() for one in before.values())
        assert not writer.failures, f"writes failed after the death of {name}"
        # The engine still does its whole job.
        assert works_again(engine) == "works\n"

    os.kill(zygote_of(engine.pids()["agent"]), signal.SIGKILL)
    assert container_pids(engine) == before
    assert works_again(engine) == "works\n"

    writer.stop.set()
    writer.join(10)
    stored = engine.docker("exec", "db", "redis-cli", "dbsize").stdout.strip()
    assert int(stored) >= writer.acknowledged > 100

    numbers = logged_numbers(engine)
    assert numbers == list(range(len(numbers))), "lines are missing, doubled or out of order"
    assert len(numbers) > 500

    events = replay(engine, begin)
    actions = [
        (event["Action"], event["Actor"]["Attributes"].get("name")) for event in events if event["Type"] == "container"
    ]
    assert actions.count(("start", "db")) == 1
    assert actions.count(("start", "lines")) == 1
    times = [event["timeNano"] for event in events]
    assert times == sorted(times)
    assert_complete(engine)


def replay(engine: Engine, since: float) -> list[dict[str, Any]]:
    text = engine.docker(
        "events", "--since", f"{since:.3f}", "--until", f"{time.time():.3f}", "--format", "{{json .}}"
    ).stdout
    return [json.loads(line) for line in text.splitlines()]


def assert_complete(engine: Engine) -> None:
    """Every container's events form whole lives: nothing starts unseen or dies twice."""
    lives: dict[str, list[str]] = {}
    for event in replay(engine, time.time() - 600):
        if event["Type"] == "container":
            lives.setdefault(str(event["Actor"]["ID"]), []).append(str(event["Action"]).split(":")[0])
    for container, actions in lives.items():
        assert actions.count("create") == 1, (container, actions)
        assert abs(actions.count("start") - actions.count("die")) <= 1, (container, actions)
        if "destroy" in actions:
            assert actions[-1] == "destroy", (container, actions)


def test_containers_outlive_the_engine(engine: Engine) -> None:
    """`davit down` and `up` again: live restore is the only mode."""
    engine.docker("run", "-d", "--name", "stays", "busybox", "sh", "-c", LINES)
    pid = int(engine.docker("inspect", "-f", "{{.State.Pid}}", "stays").stdout)
    engine.down()
    assert Path(f"/proc/{pid}").exists()
    engine.up()
    assert int(engine.docker("inspect", "-f", "{{.State.Pid}}", "stays").stdout) == pid
    numbers = [int(one) for one in re.findall(r"^line (\d+)$", engine.docker("logs", "stays").stdout, re.MULTILINE)]
    assert numbers == list(range(len(numbers)))
    assert engine.docker("exec", "stays", "echo", "in").stdout == "in\n"
    engine.docker("stop", "-t", "0", "stays")
    assert not Path(f"/proc/{pid}").exists()


def test_a_container_that_ends_while_the_engine_is_away_is_told(engine: Engine) -> None:
    engine.docker("run", "-d", "--name", "short", "busybox", "sh", "-c", "sleep 2; exit 3")
    engine.down()
    time.sleep(3)
    engine.up()
    state = eventually(
        lambda: (
            (found := engine.docker("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "short").stdout.strip())
            != "running 0"
            and found
        ),
        10,
    )
    assert state == "exited 3"


def test_ps_answers_while_the_agent_is_stopped(engine: Engine) -> None:
    engine.docker("run", "-d", "--name", "wedged", "busybox", "sleep", "1000")
    agent = engine.kill("agent", signal.SIGSTOP)
    try:
        begin = time.monotonic()
        assert engine.docker("ps", "--format", "{{.Names}}").stdout.strip() == "wedged"
        assert engine.docker("inspect", "-f", "{{.State.Running}}", "wedged").stdout.strip() == "true"
        assert time.monotonic() - begin < 5
    finally:
        os.kill(agent, signal.SIGCONT)
    assert engine.docker("exec", "wedged", "echo", "again").stdout == "again\n"
