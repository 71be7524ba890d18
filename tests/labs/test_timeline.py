"""The timeline of a file is kept to, whoever dies meanwhile."""

from __future__ import annotations

import os
import signal

import pytest

from tests.lab.engine import eventually
from tests.lab.labs import TestLab, require_root

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

FILE = """\
nodes: {m1: {role: manager}, w1: }
faults:
- at 0s: cut m1-w1 for 3s
- at 1s: link w1-lan delay 20ms
- at 4s: kill any worker for 1s
- at 30m: cut m1-w1
seed: 7
"""


def test_it_is_kept_to_also_by_the_next_keeper() -> None:
    require_root()
    with TestLab(FILE) as lab:
        eventually(lambda: lab.status()["faults"]["done"] >= 1, 15, "the first fault")
        if lab.status()["faults"]["done"] < 3:
            assert lab.ping("m1", "w1", 1).answered == 0
        for pid in lab.pids("lab.faults.keeper") | set():
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: not lab.status()["faults"]["running"], 5, "the keeper's end")
        assert not lab.status()["healthy"]
        lab.davit("up")
        eventually(lambda: lab.status()["faults"]["done"] == 5, 40, "the rest of what is due")
        status = lab.status()
        assert (status["healthy"], status["nodes"]["w1"]["state"]) == (True, "on")
        lab.davit("wait", "w1")
        assert lab.ping("m1", "w1", 20).median_s == pytest.approx(0.04, abs=0.005)
        lines = [line.split() for line in lab.davit("faults").stdout.splitlines()]
        assert [line[0] for line in lines] == ["0s", "1s", "3s", "4s", "5s", "1800s"]
        assert [line[-1] for line in lines] == ["done"] * 5 + ["m1-w1"]
        lab.davit("faults", "--stop")
        refused = lab.davit("wait", "--faults", "--timeout", "200ms", check=False)
        assert "0 of 6 faults" in refused.stderr
