"""The warm process: one for many children, replaced when it is killed, gone when nobody needs it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shared.errors import Internal, InvalidArgument
from shared.layers import forking
from shared.layers.warm import Warm, warm
from shared.layers.worker import Packer, Unpacker
from tests.lab.engine import eventually

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root: chroot")]


@pytest.fixture(autouse=True)
def _ended() -> Iterator[None]:
    yield
    warm.close()


def packed(root: Path) -> bytes:
    with Packer(root) as child:
        data = b"".join(iter(child.read, b""))
        child.result()
        return data


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_many_children_at_once_come_from_one_process(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 100_000)
    first = packed(tmp_path)
    pid = warm.pid
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(packed, [tmp_path] * 24)) == {first}
    assert warm.pid == pid
    eventually(lambda: len(children(pid)) == 1, what="the end of all children but the one that waits")


def test_a_killed_warm_process_is_replaced(tmp_path: Path) -> None:
    before, pid = packed(tmp_path), warm.pid
    os.kill(pid, signal.SIGKILL)
    assert packed(tmp_path) == before  # by the child that it had forked ahead, or by another's
    assert packed(tmp_path) == before
    assert warm.pid != pid


def test_a_killed_child_that_waits_costs_nothing(tmp_path: Path) -> None:
    before, pid = packed(tmp_path), warm.pid
    os.kill(eventually(lambda: children(pid))[0], signal.SIGKILL)
    assert packed(tmp_path) == before
    assert warm.pid == pid


def test_a_child_killed_over_its_work_is_an_error_and_no_half_result(tmp_path: Path) -> None:
    with Unpacker(tmp_path) as child:
        child.write(bytes(64))
        working = eventually(lambda: [one for one in children(warm.pid) if _root_of(one) == str(tmp_path)])
        os.kill(working[0], signal.SIGKILL)
        with pytest.raises(Internal):
            child.result()


def test_leaving_ends_the_child(tmp_path: Path) -> None:
    with Unpacker(tmp_path) as child:
        child.write(bytes(64))
        working = eventually(lambda: [one for one in children(warm.pid) if _root_of(one) == str(tmp_path)])
    eventually(lambda: not Path(f"/proc/{working[0]}").exists(), what="the child's end")


def test_nothing_of_the_service_is_in_a_child(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    try:
        with Unpacker(tmp_path) as child:
            child.write(bytes(64))
            working = eventually(lambda: [one for one in children(warm.pid) if _root_of(one) == str(tmp_path)])[0]
            descriptors = list(Path(f"/proc/{working}/fd").iterdir())
            assert os.readlink(f"/proc/self/fd/{writing}") not in {os.readlink(one) for one in descriptors}
            assert not [one for one in descriptors if one.is_dir()]  # each would be a way out
            status = Path(f"/proc/{working}/status").read_text()
            assert "NoNewPrivs:\t1" in status
            bounding = next(line for line in status.splitlines() if line.startswith("CapBnd:"))
            assert not int(bounding.split()[1], 16) & (1 << 18 | 1 << 16)  # neither chroot nor modules
    finally:
        os.close(reading)
        os.close(writing)


def test_an_idle_one_goes_and_the_next_order_starts_another(tmp_path: Path) -> None:
    order = {"job": "pack", "path": "/", "name": "", "layer": False, "exclude": [], "shallow": []}
    own = Warm(idle_ms=30)

    def pack() -> bytes:
        root, null = os.open(tmp_path, os.O_RDONLY), os.open("/dev/null", os.O_RDWR)
        forked = own.fork(order | {"one_file_system": False}, (root, null, null))
        os.close(root)
        os.close(null)
        told = b"".join(iter(lambda: forked.outcome.recv(4096), b""))
        forked.close()
        return told

    try:
        before, pid = pack(), own.pid
        assert b"ok" in before
        eventually(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z", what="its end")
        assert pack() == before
        assert own.pid != pid
        pause = threading.Event()
        for wait_ms in range(20, 40, 2):  # orders that meet it in the moment in which it goes are carried out too
            pause.wait(wait_ms / 1000)
            assert pack() == before
    finally:
        own.close()


def test_an_order_that_cannot_be_sent_names_the_field(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument) as caught:
        Packer(tmp_path, path="/" + "x" * forking.LARGEST_ORDER)
    assert caught.value.detail["field"] == "path"


def _root_of(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/root")
    except OSError:
        return ""
