"""davit-runc as a runtime of the reference engine: what the docker CLI does with it must come out as with runc."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.runtime.conftest import commands
from tests.lab.reference import ReferenceEngine

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]
MEGA = 1024 * 1024


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReferenceEngine]:
    if not ReferenceEngine.available():
        pytest.skip("the reference engine is not installed")
    command = commands()["davit-runc"]
    assert command is not None
    program = tmp_path_factory.mktemp("runtime") / "davit-runc"
    quoted = " ".join("'" + word.replace("'", "'\\''") + "'" for word in command)
    program.write_text(f'#!/bin/sh\nexec {quoted} "$@"\n')
    program.chmod(0o755)
    with ReferenceEngine("--add-runtime", f"davit={program}") as found:
        found.import_busybox()
        yield found


@pytest.fixture(params=["davit", "runc"])
def runtime(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def running(engine: ReferenceEngine, runtime: str) -> Iterator[str]:
    """A container with limits."""
    limits = ("-m", "64m", "--cpus", "0.5", "--pids-limit", "50")
    container = engine.docker("run", "-d", "--runtime", runtime, *limits, "busybox", "sleep", "300").stdout.strip()
    yield container
    engine.docker("rm", "-f", container)


def run(engine: ReferenceEngine, runtime: str, *words: str) -> tuple[int, str, str]:
    done = engine.docker("run", "--rm", "--runtime", runtime, *words, check=False)
    return done.returncode, done.stdout.strip(), done.stderr


def test_output_and_exit_codes(engine: ReferenceEngine, runtime: str) -> None:
    assert run(engine, runtime, "busybox", "echo", "hello")[:2] == (0, "hello")
    assert run(engine, runtime, "busybox", "sh", "-c", "exit 7")[0] == 7
    assert run(engine, runtime, "-t", "busybox", "tty")[:2] == (0, "/dev/pts/0")


@pytest.mark.parametrize(("command", "code"), [("no-such-program", 127), ("/etc", 126)])
def test_what_cannot_be_executed(engine: ReferenceEngine, runtime: str, command: str, code: int) -> None:
    assert run(engine, runtime, "busybox", command)[0] == code


def test_out_of_memory(engine: ReferenceEngine, runtime: str) -> None:
    """Its engine learns of the kill and of the exit on two ways, and now and then takes the exit for the first."""
    name = f"oom-{runtime}"
    script = ("--name", name, "-m", "16m", "--memory-swap", "16m", "busybox", "tail", "/dev/zero")

    def told() -> bool:
        assert engine.docker("run", "--runtime", runtime, *script, check=False).returncode == 137
        shown = engine.docker("inspect", "-f", "{{.State.OOMKilled}}", name).stdout.strip()
        engine.docker("rm", name)
        return shown == "true"

    assert any(told() for _ in range(4))


def test_exec(engine: ReferenceEngine, running: str) -> None:
    assert engine.docker("exec", "-w", "/tmp", "-e", "A=b", running, "sh", "-c", "pwd; echo $A").stdout == "/tmp\nb\n"
    assert engine.docker("exec", running, "sh", "-c", "exit 5", check=False).returncode == 5
    assert engine.docker("exec", "-t", running, "tty").stdout.strip() == "/dev/pts/0"
    assert engine.docker("exec", "-u", "nobody", running, "id", "-u").stdout.strip() == "65534"


def test_limits_statistics_and_updates(engine: ReferenceEngine, running: str) -> None:
    shown = engine.docker("stats", "--no-stream", "--format", "{{.MemUsage}} {{.PIDs}}", running).stdout
    assert shown.strip().endswith("/ 64MiB 1")
    engine.docker("update", "-m", "32m", "--memory-swap", "64m", running)
    shown = engine.docker("stats", "--no-stream", "--format", "{{.MemUsage}}", running).stdout
    assert shown.strip().endswith("/ 32MiB")


def test_pause_top_and_restart(engine: ReferenceEngine, running: str) -> None:
    status = ("inspect", "-f", "{{.State.Status}}", running)
    engine.docker("pause", running)
    assert engine.docker(*status).stdout.strip() == "paused"
    engine.docker("unpause", running)
    assert "sleep 300" in engine.docker("top", running).stdout
    engine.docker("restart", "-t", "0", running)
    assert engine.docker(*status).stdout.strip() == "running"
    engine.docker("kill", running)
    assert engine.docker(*status).stdout.strip() == "exited"


def test_volumes_and_users(engine: ReferenceEngine, runtime: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").write_text("shared\n")
    for directory in (tmp_path, *tmp_path.parents[:2]):
        directory.chmod(0o755)
    words = ("-v", f"{tmp_path}/data:/data:ro", "-u", "1000:1000", "--read-only", "--tmpfs", "/run")
    script = "cat /data/file; touch /data/x 2>/dev/null || echo read-only; touch /run/x && id -u"
    code, out, _ = run(engine, runtime, *words, "busybox", "sh", "-c", script)
    assert (code, out.split()) == (0, ["shared", "read-only", "1000"])
