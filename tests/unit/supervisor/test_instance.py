"""What an engine has in its names, and the file with its pid."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from shared.errors import Conflict
from supervisor import pidfile
from supervisor.instance import instance_of


def test_a_new_data_root_gets_a_mark_and_keeps_it(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    marks = {instance_of(one), instance_of(other)}
    assert len(marks) == 2
    assert all(len(mark) == 6 for mark in marks)
    assert {instance_of(one), instance_of(other)} == marks
    one.rename(tmp_path / "moved")
    assert instance_of(tmp_path / "moved") in marks


def test_one_that_was_in_use_before_keeps_the_plain_names(tmp_path: Path) -> None:
    (tmp_path / "db").mkdir()
    assert instance_of(tmp_path) == ""
    assert instance_of(tmp_path) == ""


def test_a_pid_of_a_process_that_runs_is_respected(tmp_path: Path) -> None:
    path = tmp_path / "run" / "docker.pid"
    pidfile.claim(path)
    assert pidfile.read(path) == os.getpid()
    pidfile.claim(path)  # our own
    path.write_text(str(os.getppid()))
    with pytest.raises(Conflict, match=f"process with PID {os.getppid()} is still running"):
        pidfile.claim(path)
    pidfile.remove(path, os.getpid())
    assert path.exists()  # another's


@pytest.mark.parametrize("content", ["", "nonsense", "gone"])
def test_what_a_killed_engine_left_is_in_nobodys_way(tmp_path: Path, content: str) -> None:
    path = tmp_path / "docker.pid"
    if content == "gone":
        ended = subprocess.Popen(["true"])
        ended.wait()
        content = str(ended.pid)
    path.write_text(content)
    pidfile.claim(path)
    pidfile.remove(path, os.getpid())
    assert not path.exists()
