"""A disk that is full: what cannot be done is refused clearly and leaves nothing; what runs goes on."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.conftest import require_root
from tests.lab.engine import Engine, busybox_tar, eventually

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

# An import leaves a quarter of a gigabyte free.
DISK_BYTES = 400 << 20
SETTLED_WITHIN_S = 40.0
NUMBERS = "i=0; while :; do echo line $i; i=$((i+1)); sleep 0.02; done"


@pytest.fixture
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An engine whose data root is a file system of its own, and a small one."""
    require_root()
    base = Path(f"/var/tmp/dvt-full-{os.getpid()}")
    (base / "data").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "dvt-full", base / "data"], check=True)
    try:
        with Engine(base=base) as engine:
            engine.import_busybox()
            yield engine
    finally:
        subprocess.run(["umount", base / "data"], check=True)
        subprocess.run(["rm", "-rf", base], check=True)


@contextmanager
def full(engine: Engine) -> Iterator[None]:
    """Nothing can be written to the data root inside."""
    filler = engine.data / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    try:
        yield
    finally:
        filler.unlink()


def refused(engine: Engine, *arguments: str) -> str:
    """What a client is told whose command fails, and not by its own patience."""
    result = engine.docker(*arguments, check=False, timeout_s=30)
    assert result.returncode not in (0, -9), f"docker {' '.join(arguments)} succeeded: {result.stdout}"
    return result.stderr


FULL = re.compile(r"disk is full|No space left on device|no space left on device|bytes of files")


def test_what_a_full_disk_does_not_allow_is_refused_and_what_runs_goes_on(small: Engine, tmp_path: Path) -> None:
    engine = small
    engine.docker("run", "-d", "--name", "lines", "busybox", "sh", "-c", NUMBERS)
    engine.docker("run", "-d", "--name", "ends", "busybox", "sh", "-c", "sleep 4; exit 7")
    again = "[ -e /tmp/ran ] || { touch /tmp/ran; sleep 4; exit 3; }; sleep 600"
    engine.docker("run", "-d", "--name", "again", "--restart", "always", "busybox", "sh", "-c", again)
    engine.docker("create", "--name", "created", "busybox", "true")
    engine.docker("create", "--name", "idle", "busybox", "true")
    engine.docker("network", "create", "spare")
    for name in ("stopped", "killed", "removed"):
        engine.docker("run", "-d", "--name", name, "-p", "80", "-v", "/anonymous", "busybox", "sleep", "600")
    tar = busybox_tar(tmp_path / "busybox.tar")
    pid = engine.docker("inspect", "-f", "{{.State.Pid}}", "lines").stdout
    agent = engine.pids()["agent"]
    with full(engine):
        for command in (
            ("create", "--name", "never", "-v", "/anonymous", "busybox", "true"),
            ("start", "created"),
            ("run", "--rm", "--name", "never", "busybox", "echo", "hi"),
            ("import", str(tar), "never:latest"),
            ("load", "-i", str(tar)),
            ("volume", "create", "never"),
            ("network", "create", "never"),
            ("exec", "lines", "true"),
        ):
            assert FULL.search(refused(engine, *command)), command
        assert "line" in engine.docker("logs", "--tail", "1", "lines").stdout
        # What ends something is done all the same, and is known.
        eventually(lambda: state(engine, "ends") == "exited 7", SETTLED_WITHIN_S, "an exit on a full disk")
        engine.docker("stop", "-t", "1", "stopped", timeout_s=30)
        assert state(engine, "stopped") == "exited 137"
        engine.docker("kill", "killed", timeout_s=30)
        assert state(engine, "killed") == "exited 137"
        for gone in ("stopped", "killed", "removed", "idle"):
            engine.docker("rm", "-f", "-v", gone, timeout_s=30)
        assert engine.docker("volume", "ls", "-q").stdout == ""
        engine.docker("network", "rm", "spare", timeout_s=30)
        assert {"lines", "ends", "again", "created"} == names(engine)
        assert Path(f"/proc/{pid.strip()}").exists()
        assert engine.pids()["agent"] == agent
    # There is room again: nothing of what was refused is there, and nothing of what happened is lost.
    assert state(engine, "ends") == "exited 7"
    eventually(lambda: "destroy" in told(engine, "idle"), SETTLED_WITHIN_S, "the events")
    assert told(engine, "stopped")[-3:] == ["die", "stop", "destroy"]
    assert told(engine, "killed")[-3:] == ["kill", "die", "destroy"]
    assert told(engine, "removed")[-3:] == ["kill", "die", "destroy"]
    eventually(lambda: state(engine, "again") == "running 0", SETTLED_WITHIN_S, "the restart")
    assert state(engine, "lines") == "running 0"
    assert engine.docker("inspect", "-f", "{{.State.Pid}}", "lines").stdout == pid
    assert names(engine) == {"lines", "ends", "again", "created"}
    assert engine.docker("volume", "ls", "-q").stdout == ""
    assert "never" not in engine.docker("network", "ls").stdout + engine.docker("images").stdout
    assert engine.docker("start", "-a", "created").returncode == 0
    assert engine.docker("run", "--rm", "busybox", "echo", "hi").stdout == "hi\n"
    assert_log_accounts_for_every_line(engine)
    engine.docker("rm", "-f", "lines", "ends", "again", "created")
    eventually(lambda: not any((engine.data / "containers").iterdir()), 20, "an empty node")


def told(engine: Engine, name: str) -> list[str]:
    window = ("--since", "1", "--until", f"{time.time():.3f}")
    form = ("--filter", f"container={name}", "--format", "{{.Action}}")
    return engine.docker("events", *window, "--filter", "type=container", *form).stdout.split()


def names(engine: Engine) -> set[str]:
    return set(engine.docker("ps", "-a", "--format", "{{.Names}}").stdout.split())


def state(engine: Engine, name: str) -> str:
    return engine.docker("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", name).stdout.strip()


def assert_log_accounts_for_every_line(engine: Engine) -> None:
    """In order, each once; and where some are missing it says how many."""
    log = engine.docker("logs", "lines")
    numbers = [int(one) for one in re.findall(r"^line (\d+)$", log.stdout, re.MULTILINE)]
    missing = sum(after - before - 1 for before, after in itertools.pairwise(numbers))
    said = [int(one) for one in re.findall(r"davit: (\d+) records of this log are lost", log.stderr)]
    assert numbers == sorted(set(numbers))
    assert sum(said) == missing > 0, (said, missing)
