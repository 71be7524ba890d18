"""`davit up` and its processes: what an operator does to them, and what must then be so. Needs root."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.bus.health import SERVICES
from tests.conftest import missing
from tests.lab import leftovers
from tests.lab.engine import DAVIT, Engine, eventually
from tests.lab.leftovers import runs

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]
KILLED = ("guardian", "supervisor", "nats", *SERVICES)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    if os.geteuid() != 0:
        missing("root")
    with Engine() as running:
        yield running


def healthy(engine: Engine) -> bool:
    status = engine.status()
    return bool(status.get("healthy")) and {*SERVICES, "guardian", "supervisor", "nats"} <= set(status["processes"])


def ping(engine: Engine) -> bool:
    return engine.docker("version", check=False, timeout_s=20).returncode == 0


@pytest.mark.parametrize("name", KILLED)
def test_a_killed_process_comes_back(engine: Engine, name: str) -> None:
    eventually(lambda: healthy(engine), 30, "a healthy engine")
    before = engine.pids()[name]
    os.kill(before, signal.SIGKILL)
    eventually(lambda: healthy(engine) and engine.pids()[name] != before, 30, f"{name}'s return")
    assert ping(engine)


def test_guardian_and_supervisor_killed_together_leave_nothing(engine: Engine) -> None:
    pids = engine.pids()
    os.kill(pids["guardian"], signal.SIGKILL)
    os.kill(pids["supervisor"], signal.SIGKILL)
    eventually(lambda: not any(runs(pid) for pid in pids.values()), 10, "the end of all processes")
    engine.up()
    assert healthy(engine)


def test_up_twice_is_refused_and_harmless(engine: Engine) -> None:
    before = engine.pids()
    second = engine.davit("up", "--detach", check=False)
    assert second.returncode == 1
    assert "already running" in second.stderr
    assert engine.pids() == before


def test_down_and_up_again(engine: Engine) -> None:
    pids = engine.pids()
    engine.down()
    assert not any(runs(pid) for pid in pids.values())
    assert not engine.socket.exists()
    status = engine.davit("status", "--json", check=False)
    assert (status.returncode, json.loads(status.stdout)["phase"]) == (3, "stopped")
    engine.up()
    assert healthy(engine)


def up(tmp: Path, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [str(DAVIT), "up", "--detach", "--data-root", f"{tmp}/d", "--run-dir", f"{tmp}/r", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **options)  # type: ignore[call-overload, no-any-return]


@pytest.fixture
def base() -> Iterator[Path]:
    import shutil
    import tempfile

    path = Path(tempfile.mkdtemp(prefix="up-", dir="/var/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


def test_a_port_in_use_is_named_and_nothing_stays(engine: Engine, base: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = up(base, "--host", f"tcp://127.0.0.1:{port}", "--no-tlsverify", "--services", "api")
    assert result.returncode == 1
    assert str(port) in result.stderr
    assert not (base / "r" / "engine.json").exists()
    assert not processes_of(base)


def processes_of(base: Path) -> list[int]:
    return leftovers.processes_of(base)


def test_a_wrong_setting_is_named(base: Path) -> None:
    file = base / "daemon.json"
    file.write_text('{"storage-drivr": "x"}')
    result = up(base, "--config-file", str(file))
    assert result.returncode == 78
    assert "storage-drivr" in result.stderr
    assert not (base / "r").exists()


def test_an_unknown_service_is_named(base: Path) -> None:
    result = up(base, "--services", "api,imge")
    assert result.returncode == 78
    assert "imge" in result.stderr


def test_without_root_it_says_so(base: Path) -> None:
    """In a forked child that gives root up, since nobody may not be able to reach the interpreter."""
    # All that the child needs, since without root it may not be able to read modules any more.
    from cli import up as _  # noqa: F401
    from cli.__main__ import main

    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            os.dup2(writer, 2)
            sys.stderr = os.fdopen(2, "w")
            os.setresuid(65534, 65534, 65534)
            code = main(["up", "--detach", "--data-root", f"{base}/d", "--run-dir", f"{base}/r"])
            sys.stderr.flush()
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        said = pipe.read()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
    assert "root" in said
    assert not (base / "r").exists()


def test_a_bus_that_does_not_answer_is_named(base: Path) -> None:
    result = up(base, "--nats", "nats://127.0.0.1:1", "--services", "volume")
    assert result.returncode == 1
    assert "127.0.0.1:1" in result.stderr
    assert not processes_of(base)
