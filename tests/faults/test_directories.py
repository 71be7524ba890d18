"""Run and data directories deleted under a running engine: it ends, its containers do not, and another may come."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.lab.engine import Engine, eventually
from tests.lab.leftovers import runs

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]


def delete(directory: Path) -> None:
    """As an operator does it; mounts of containers keep some of it."""
    shutil.rmtree(directory, ignore_errors=True)
    if directory.exists():
        directory.rename(directory.with_name(f"{directory.name}.gone"))


@pytest.fixture
def container(engine: Engine) -> Iterator[tuple[str, int]]:
    """Id and pid of one that runs, and is ended in the end whoever knows of it."""
    name = engine.docker("run", "-d", "busybox", "sleep", "1000").stdout.strip()
    pid = int(engine.docker("inspect", "-f", "{{.State.Pid}}", name).stdout)
    yield name, pid
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("killed", [None, "supervisor"])
def test_an_engine_without_its_directories_goes_and_leaves_its_containers(
    engine: Engine, container: tuple[str, int], killed: str | None
) -> None:
    before = engine.pids()
    name, pid = container
    with (engine.data / "engine.log").open() as log:
        delete(engine.run_dir)
        delete(engine.data)
        if killed:
            with suppress(ProcessLookupError):
                os.kill(before[killed], signal.SIGKILL)
        eventually(lambda: not any(runs(one) for one in before.values()), 30, "the end of the engine")
        said = log.read()
    assert runs(pid)
    if not killed:
        assert name[:12] in said.strip().splitlines()[-1]

    # A new one in the same place starts, and nobody ends it.
    engine.up()
    after = engine.pids()
    assert not set(after.values()) & set(before.values())
    assert engine.docker("ps", "-aq").stdout == ""
    assert engine.status()["healthy"]
    assert engine.pids() == after


def test_a_new_engine_in_the_place_of_one_that_runs_is_left_alone(engine: Engine) -> None:
    """Replaced while the old one still runs: its guardian and supervisor must not take the new one for leftovers."""
    before = engine.pids()
    engine.run_dir.rename(engine.base / "moved-run")
    engine.data.rename(engine.base / "moved-data")
    engine.up()
    after = engine.pids()
    eventually(lambda: not any(runs(one) for one in before.values()), 30, "the end of the old engine")
    status = engine.status()
    assert status["healthy"]
    assert {name: entry["restarts"] for name, entry in status["processes"].items() if entry["restarts"]} == {}
    assert engine.pids() == after
