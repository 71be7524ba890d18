"""What a shim does with what its launcher has left it."""

from __future__ import annotations

import json
import os
from pathlib import Path

from services.executor.runtime.launch import launcher
from services.executor.runtime.launch.launcher import LaterLog
from services.executor.runtime.launch.zygote import MOST_FDS


def test_a_log_that_cannot_be_opened_does_not_end_the_shim(tmp_path: Path) -> None:
    path = tmp_path / "container" / "log"
    log = LaterLog({"path": str(path)})
    log.write("stdout", [b"one\n", b"two\n"])  # the container's directory has been removed
    path.parent.mkdir()
    log.write("stdout", [b"three\n"])
    log.opened.close()
    told, kept = [json.loads(line)["log"] for line in path.read_text().splitlines()]
    assert told.startswith("davit: 2 records of this log are lost")
    assert kept == "three\n"


def test_a_log_opened_late_is_rotated_by_what_is_in_it_already(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"x" * 1000)
    log = LaterLog({"path": str(path), "options": {"max-size": "1k", "max-file": "2"}})
    log.write("stdout", [b"one\n"])
    log.opened.close()
    assert (tmp_path / "log.1").stat().st_size == 1000


def test_whatever_came_with_an_order_can_be_given_on() -> None:
    one, other = launcher.pair()
    fds = [os.open(os.devnull, os.O_RDONLY) for _ in range(MOST_FDS)]
    more = os.pipe()
    try:
        launcher.pass_on(one, b"order", [*fds, *more])
        shim, packet, got = launcher.wait(other, _ended_child())
        for fd in got:
            os.close(fd)
    finally:
        for fd in (*fds, *more):
            os.close(fd)
        one.close()
    assert (shim, packet, len(got)) == (None, b"order", MOST_FDS + 2)


def test_a_state_of_any_length_can_be_given_on(tmp_path: Path) -> None:
    """Labels that go into every line of the log make it as long as its user likes."""
    one, other = launcher.pair()
    labels = {"label": "x" * 600_000}
    state = {"log": {"path": str(tmp_path / "log"), "attrs": labels}}
    launcher.give_state(one, state, [])
    data, fds = launcher.receive(other)
    one.close()
    assert (json.loads(data[1:]), fds) == (state, [])


def _ended_child() -> int:
    return os.posix_spawn("/bin/true", ["true"], {})
