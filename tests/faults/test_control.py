"""kill -9 of control where a crash could tear something apart: nothing is lost, doubled or left behind."""

from __future__ import annotations

import json
import random
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.conftest import require_root
from tests.lab.engine import Engine, eventually

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

# An inventory every 10 s, and what is younger than 5 s is left to settle by itself.
RECONCILED_WITHIN_S = 40.0
PORT_FREE_WITHIN_S = 20.0


@contextmanager
def failing_at(point: str, action: str = "kill") -> Iterator[Engine]:
    """An engine whose control dies at the first hit of a point, in each of its processes unless `action` says else."""
    require_root()
    with Engine(environment={"DAVIT_FAILPOINTS": f"{point}={action}"}) as engine:
        engine.import_busybox()
        yield engine


def attempt(engine: Engine, *arguments: str, timeout_s: float = 5.0) -> str | None:
    """What a client prints whose engine may die under it; None when it fails, or still waits for an answer then."""
    try:
        result = engine.docker(*arguments, check=False, timeout_s=timeout_s)
    except subprocess.TimeoutExpired:
        return None
    return result.stdout.strip() if result.returncode == 0 else None


def status(engine: Engine, name: str) -> str:
    result = engine.docker("inspect", "-f", "{{.State.Status}}", name, check=False)
    return result.stdout.strip() if result.returncode == 0 else "missing"


def becomes(engine: Engine, name: str, wanted: str) -> None:
    eventually(lambda: status(engine, name) == wanted, RECONCILED_WITHIN_S, f"{name} being {wanted}")


def actions(engine: Engine, name: str) -> list[str]:
    """Docker's container events of one name since the engine started."""
    until = str(time.time())
    text = engine.docker(
        "events", "--since", "1", "--until", until, "--filter", "type=container", "--format", "{{json .}}"
    )
    events = [json.loads(line) for line in text.stdout.splitlines()]
    return [event["Action"] for event in events if event["Actor"]["Attributes"].get("name") == name]


def gapless(engine: Engine) -> bool:
    connection = sqlite3.connect(engine.data / "db" / "control.sqlite3")
    try:
        numbers = [row[0] for row in connection.execute("SELECT sequence FROM outbox ORDER BY sequence")]
    finally:
        connection.close()
    return numbers == list(range(1, len(numbers) + 1))


def test_a_start_killed_before_its_commit_happened_once() -> None:
    with failing_at("control.start.before_commit") as engine:
        engine.docker("create", "--name", "web", "-p", "8080:80", "busybox", "sleep", "600")
        attempt(engine, "start", "web")
        becomes(engine, "web", "running")
        assert actions(engine, "web").count("start") == 1
        address = engine.docker("inspect", "-f", "{{.NetworkSettings.IPAddress}}", "web").stdout.strip()
        assert address == engine.docker("exec", "web", "hostname", "-i").stdout.strip()


ONCE = (
    "control.create.before_commit",
    "control.start.before_order",
    "control.start.before_commit",
    "control.exit.after_commit",
    "control.remove.after_mark",
    "control.remove.before_forget",
)
# What a client waits for an answer when control is killed once over its request.
ANSWERED_WITHIN_S = 15.0


def test_clients_are_answered_however_often_control_dies_over_their_requests(tmp_path: Path) -> None:
    """Each point kills one process; the client notices nothing but a pause."""
    require_root()
    points = ";".join(f"{point}=kill_once({tmp_path}/{point})" for point in ONCE)
    with Engine(environment={"DAVIT_FAILPOINTS": points}) as engine:
        engine.import_busybox()

        def patiently(kills: int, *arguments: str) -> str:
            began = time.monotonic()
            printed = engine.docker(*arguments, timeout_s=120).stdout
            assert time.monotonic() - began < kills * ANSWERED_WITHIN_S, f"docker {' '.join(arguments)}"
            return printed

        patiently(1, "create", "--name", "web", "-p", "8080:80", "busybox", "sh", "-c", "echo once; sleep 600")
        patiently(2, "start", "web")
        assert engine.docker("logs", "web").stdout == "once\n"
        patiently(2, "rm", "-f", "web")
        assert status(engine, "web") == "missing"
        engine.docker("create", "--name", "idle", "busybox", "true")
        patiently(1, "rm", "idle")
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(ONCE)
        # One life, whose end may have been learnt of from the node before control could tell of its kill.
        assert [one for one in actions(engine, "web") if one != "kill"] == ["create", "start", "die", "destroy"]
        assert patiently(1, "run", "--rm", "-p", "8080:80", "busybox", "echo", "free") == "free\n"
        assert gapless(engine)


def test_an_exit_killed_after_its_commit_is_there(tmp_path: Path) -> None:
    with failing_at("control.exit.after_commit", f"kill_once({tmp_path}/killed)") as engine:
        engine.docker("run", "-d", "--name", "web", "-p", "8080:80", "busybox", "sh", "-c", "sleep 0.2; exit 5")
        becomes(engine, "web", "exited")
        assert engine.docker("inspect", "-f", "{{.State.ExitCode}}", "web").stdout.strip() == "5"
        assert actions(engine, "web").count("die") == 1
        taking = ("run", "--rm", "-p", "8080:80", "busybox", "true")
        eventually(lambda: engine.docker(*taking, check=False).returncode == 0, PORT_FREE_WITHIN_S, "a free port")


def test_a_container_that_removes_itself_goes_although_control_died() -> None:
    with failing_at("control.exit.after_commit") as engine:
        engine.docker("run", "-d", "--rm", "--name", "web", "-v", "/anonymous", "busybox", "sleep", "0.2")
        becomes(engine, "web", "missing")
        assert actions(engine, "web") == ["create", "start", "die", "destroy"]
        assert engine.docker("volume", "ls", "-q").stdout == ""
        assert not any((engine.data / "containers").iterdir())


def test_a_removal_killed_after_its_mark_is_finished() -> None:
    with failing_at("control.remove.after_mark") as engine:
        engine.docker("create", "--name", "web", "-v", "data:/data", "busybox", "true")
        attempt(engine, "rm", "web")
        becomes(engine, "web", "missing")
        assert actions(engine, "web") == ["create", "destroy"]
        eventually(lambda: engine.docker("volume", "rm", "data", check=False).returncode == 0, 10)


def _life(engine: Engine, number: int, errors: list[str], until: float) -> None:
    """Whole lives, one after the other; errors of the moment are fine, wrong answers are not."""
    while time.monotonic() < until:
        name = f"life{number}"
        printed = attempt(engine, "run", "--name", name, "busybox", "echo", name, timeout_s=10)
        if printed not in (None, name):
            errors.append(f"{name}: {printed!r}")
        eventually(lambda: _removed(engine, f"life{number}"), 60, "the removal")


def _removed(engine: Engine, name: str) -> bool:
    attempt(engine, "rm", "-f", name)
    return status(engine, name) == "missing"


def test_lives_go_on_while_control_is_killed_again_and_again(engine: Engine) -> None:
    errors: list[str] = []
    until = time.monotonic() + 20
    engine.docker("run", "-d", "--name", "steady", "busybox", "sleep", "600")
    pid = engine.docker("inspect", "-f", "{{.State.Pid}}", "steady").stdout
    threads = [threading.Thread(target=_life, args=(engine, number, errors, until)) for number in range(3)]
    for thread in threads:
        thread.start()
    while time.monotonic() < until:
        time.sleep(random.uniform(1.0, 3.0))
        engine.kill("control")
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
    assert errors == []
    assert engine.docker("inspect", "-f", "{{.State.Pid}}", "steady").stdout == pid
    assert engine.docker("ps", "-a", "--format", "{{.Names}}").stdout.split() == ["steady"]
    eventually(_only_directory_of(engine, "steady"), RECONCILED_WITHIN_S, "nothing but steady on the node")
    for number in range(3):
        history = actions(engine, f"life{number}")
        assert history.count("create") == history.count("destroy")
        assert history.count("start") == history.count("die")
    assert gapless(engine)


def _only_directory_of(engine: Engine, name: str) -> Callable[[], bool]:
    container_id = engine.docker("inspect", "-f", "{{.Id}}", name).stdout.strip()
    return lambda: [path.name for path in (engine.data / "containers").iterdir()] == [container_id]
