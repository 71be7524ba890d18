"""Clients in the middle of a call when an engine process is killed: they get all of it, or are told what they miss."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.e2e.conftest import require_root
from tests.faults.test_kill_everything import zygote_of
from tests.lab.engine import Engine, eventually

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

# Not the API edge: who loses its connection knows.
PROCESSES = ("nats", "image", "network", "volume", "control", "agent", "zygote")
COUNTED = 1500
COUNT = f"i=0; while [ $i -lt {COUNTED} ]; do echo line $i; i=$((i+1)); usleep 8000; done"
EXECS = 12


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    require_root()
    with Engine() as one:
        one.import_busybox()
        yield one


def lines(count: int) -> list[str]:
    return [f"line {number}" for number in range(count)]


@pytest.mark.parametrize("process", PROCESSES)
def test_what_a_client_reads_has_no_gap(engine: Engine, process: str) -> None:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    engine.docker("run", "-d", "--name", "counts", "busybox", "sh", "-c", f"{COUNT}; sleep 600")
    following = engine.docker_popen("logs", "-f", "counts", **pipes)
    foreground = engine.docker_popen("run", "--name", "here", "busybox", "sh", "-c", f"{COUNT}; exit 7", **pipes)
    executing = engine.docker_popen("exec", "counts", "sh", "-c", "sleep 12; echo done; exit 4", **pipes)
    eventually(lambda: engine.docker("ps", "-q", "-f", "name=here").stdout, 10, "a running container")
    waiting = engine.docker_popen("wait", "here", **pipes)
    time.sleep(1.5)
    pids = eventually(lambda: (found := engine.pids()).keys() >= set(PROCESSES) - {"zygote"} and found, 20)
    victim = zygote_of(pids["agent"]) if process == "zygote" else int(pids[process])
    appending = [engine.docker_popen("exec", "-d", "counts", "sh", "-c", "echo x >> /n", **pipes) for _ in range(EXECS)]
    time.sleep(0.15)
    os.kill(victim, signal.SIGKILL)

    for one in appending:
        _, complaint = one.communicate(timeout=60)
        assert one.returncode == 0, complaint
    eventually(lambda: engine.docker("exec", "counts", "cat", "/n").stdout == "x\n" * EXECS, 10, "each of them, once")
    printed, complaint = foreground.communicate(timeout=90)
    assert (printed.decode().splitlines(), foreground.returncode) == (lines(COUNTED), 7), complaint
    assert waiting.communicate(timeout=30)[0] == b"7\n"
    printed, complaint = executing.communicate(timeout=60)
    if process in ("agent", "nats"):
        # Nobody has what it said meanwhile. (Of the bus, only frames that were under way are lost.)
        assert (executing.returncode, b"error from daemon in stream" in complaint) in ((1, True), (4, False)), complaint
    else:
        assert (printed, executing.returncode) == (b"done\n", 4), complaint
    engine.docker("rm", "-f", "counts", "here", timeout_s=60)
    followed, complaint = following.communicate(timeout=60)
    assert followed.decode().splitlines() == lines(COUNTED), complaint
