"""`davit lab save` and `load`: the lab is there again, under any name."""

from __future__ import annotations

import pytest

from tests.lab.labs import TestLab, require_root

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

FILE = """\
name: saved
nodes: {m1: {role: manager}, w1: }
links:
- between: [m1, w1]
  delay: 10ms
"""


def test_a_lab_is_there_again_under_another_name() -> None:
    require_root()
    with TestLab(FILE) as lab:
        lab.import_busybox()
        there = ("--pull", "never", "--label", "davit.node=w1")
        lab.docker("run", "-d", "--name", "runs", "-v", "data:/data", *there, "busybox", "sleep", "1000")
        lab.docker("exec", "runs", "sh", "-c", "echo kept >/data/file; echo own >/own; rm /etc/group; sync")
        lab.docker("run", "-d", "--name", "here", "--pull", "never", "busybox", "sleep", "1000")
        lab.docker("run", "--name", "over", "--pull", "never", "busybox", "sh", "-c", "exit 3", check=False)
        lab.davit("cut", "m1", "w1")
        lab.davit("heal")
        file = str(lab.base / "saved.lab")
        assert "saved.lab: " in lab.davit("save", file).stdout
        assert lab.docker("exec", "runs", "cat", "/own").stdout == "own\n", "it went on"
        refused = lab.davit("load", file, check=False)
        assert (refused.returncode, "lab saved is there already" in refused.stderr) == (1, True)
        lab.davit("down")
        assert not lab.root.exists()

        assert lab.davit("--lab", "again", "load", file).stdout == "lab again is ready: m1, w1\n"
        states = {line.split()[0]: line.split(maxsplit=1)[1] for line in lab.docker(
            "ps", "-a", "--format", "{{.Names}} {{.Status}}").stdout.splitlines()}  # fmt: skip
        assert set(states) == {"runs", "here", "over"}
        assert states["runs"].startswith("Up")
        assert states["here"].startswith("Up")
        assert states["over"].startswith("Exited (3)")
        assert lab.docker("exec", "runs", "sh", "-c", "cat /own /data/file; ls /etc/group", check=False).stdout == (
            "own\nkept\n"
        )
        assert lab.ping_address("m1", "10.214.0.2", 20).median_s == pytest.approx(0.02, abs=0.003)
        assert lab.davit("check", "--within", "15s").returncode == 0


def test_a_file_that_is_no_saved_lab_is_refused() -> None:
    lab = TestLab("nodes: {m1: {role: manager}}\n")
    refused = lab.davit("load", str(lab.file), check=False)
    assert refused.returncode == 1
    assert "cannot be read as a saved lab" in refused.stderr
    assert not lab.root.exists()
    lab.__exit__(None, None, None)
