"""Services that are stopped and go on, and a bus that is away: what cannot be done waits, what runs goes on."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.conftest import require_root
from tests.lab.engine import Engine, eventually

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

# Longer than a caller waits before it asks who works on its request, and shorter than any deadline.
STOPPED_S = 6.0
NUMBERS = "i=0; while :; do echo line $i; i=$((i+1)); sleep 0.02; done"
# Processes without which the API still answers questions.
UNNEEDED_BY_READS = ("image", "network", "volume", "agent")


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    require_root()
    with Engine() as one:
        one.import_busybox()
        one.docker("run", "-d", "--name", "lines", "busybox", "sh", "-c", NUMBERS)
        yield one
        one.docker("rm", "-f", "lines")


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def actions(engine: Engine, name: str) -> list[str]:
    window = ("--since", "1", "--until", f"{time.time():.3f}")
    text = engine.docker("events", *window, "--filter", "type=container", "--format", "{{json .}}").stdout
    events = [json.loads(line) for line in text.splitlines()]
    return [one["Action"] for one in events if one["Actor"]["Attributes"].get("name") == name]


def assert_lines_are_whole(engine: Engine) -> None:
    numbers = [int(one) for one in re.findall(r"^line (\d+)$", engine.docker("logs", "lines").stdout, re.MULTILINE)]
    assert numbers == list(range(len(numbers)))


@pytest.mark.parametrize("process", ["nats", "image", "network", "volume", "control", "agent", "api"])
def test_what_is_asked_of_a_stopped_process_is_done_once_when_it_goes_on(engine: Engine, process: str) -> None:
    pid, name = engine.pids()[process], f"job-{process}"
    with stopped(pid):
        asking = engine.docker_popen(
            "run", "--rm", "--name", name, "-p", "80", "-v", "/anonymous", "busybox", "echo", "done",
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        if process in UNNEEDED_BY_READS:
            began = time.monotonic()
            assert "lines" in engine.docker("ps", "--format", "{{.Names}}").stdout
            assert engine.docker("inspect", "-f", "{{.State.Running}}", "lines").stdout == "true\n"
            assert time.monotonic() - began < 5
        time.sleep(STOPPED_S)
        # A job that needs nothing of the stopped process is through by now; no other may have failed.
        assert asking.poll() in (None, 0), asking.communicate()
    printed, complaint = asking.communicate(timeout=60)
    assert (printed, asking.returncode) == (b"done\n", 0), complaint
    eventually(lambda: actions(engine, name) == ["create", "attach", "start", "die", "destroy"], 15, "one life")
    assert engine.pids()[process] == pid
    assert_lines_are_whole(engine)


def test_a_stopped_copy_does_not_hold_up_the_engine_for_ever(engine: Engine) -> None:
    """A request to a process that never goes on ends at its deadline, with an error and not with silence."""
    with stopped(engine.pids()["volume"]):
        began = time.monotonic()
        result = engine.docker("volume", "create", "never", check=False, timeout_s=60)
        assert result.returncode != 0
        assert "no answer in time" in result.stderr
        assert time.monotonic() - began < 30


def test_the_node_goes_on_without_the_bus_and_tells_afterwards(engine: Engine) -> None:
    """The bus dies and loses its store; meanwhile a container ends and another is restarted by policy."""
    engine.docker("run", "-d", "--name", "ends", "busybox", "sh", "-c", "sleep 4; exit 7")
    script = "[ -e /tmp/ran ] || { touch /tmp/ran; sleep 4; exit 3; }; sleep 600"
    engine.docker("run", "-d", "--name", "again", "--restart", "always", "busybox", "sh", "-c", script)
    container_id = engine.docker("inspect", "-f", "{{.Id}}", "again").stdout.strip()
    known = [*actions(engine, "ends"), *actions(engine, "again")]
    waiting = engine.docker_popen("wait", "ends", stdout=subprocess.PIPE)
    pids = engine.pids()
    with stopped(pids["supervisor"]):  # who would start the bus again
        os.kill(pids["nats"], signal.SIGKILL)
        shutil.rmtree(engine.data / "nats" / "jetstream")
        record = engine.data / "containers" / container_id / "record.json"
        eventually(lambda: _restarted(record), 15, "a restart by the node alone")
        time.sleep(2)
    printed, _ = waiting.communicate(timeout=60)
    assert (printed, waiting.returncode) == (b"7\n", 0)
    template = "{{.State.Status}} {{.RestartCount}}"
    eventually(lambda: engine.docker("inspect", "-f", template, "again").stdout == "running 1\n", 30, "the truth")
    eventually(lambda: sorted(actions(engine, "again")) == ["create", "die", "start", "start"], 15, "the whole story")
    assert actions(engine, "ends") == ["create", "start", "die"]
    assert known == ["create", "start"] * 2
    assert engine.docker("run", "--rm", "busybox", "echo", "works").stdout == "works\n"
    assert_lines_are_whole(engine)
    engine.docker("rm", "-f", "ends", "again")


def _restarted(record: Path) -> bool:
    found = json.loads(record.read_bytes())
    return bool(found["run"] == 2 and found["status"] == "running")
