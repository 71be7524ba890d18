"""A shim alone, without an agent, on whatever kernel and control groups the machine has: with its own runtime, and
letting runc make its container.

Nothing but the standard library and pytest is imported, so that it runs in a bare virtual machine too.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from services.executor.runtime import cgroups
from services.executor.runtime.cgroups.interface import Cgroup
from services.executor.runtime.errors import RuntimeFailure
from services.executor.runtime.kernel.threads import in_a_thread
from services.executor.runtime.launch import zygote
from services.executor.runtime.shim import exitrecord, frames, shim
from services.executor.runtime.spec import defaults
from services.executor.runtime.steps import rootfs
from tests.conftest import missing

BUSYBOX = Path("/bin/busybox")
RUNC = os.environ.get("DAVIT_TEST_RUNC") or shutil.which("runc", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
WAIT_S = 60.0


def eventually(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + WAIT_S
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.02)


class Started:
    """A shim in a fork of ours, and the connection on which it answers; `output` is what was attached."""

    class Refused(Exception):
        """There is no shim: the order is wrong already for who packs it."""

    def __init__(self, order: dict[str, Any]) -> None:
        wish = {"fd": 1, "stdin": True, "stdout": True, "stderr": True}
        try:
            packet = zygote.pack_packet(*zygote.pack_order({**order, "control_fd": 0, "attach": [wish]}))
        except (RuntimeFailure, TypeError, ValueError, AttributeError, KeyError) as failure:
            raise Started.Refused(failure) from failure
        self.connection, control = socket.socketpair()
        attached, stream = socket.socketpair()
        self.output = attached
        fds = [control.fileno(), stream.fileno()]
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self.connection.detach()
                attached.detach()
                null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
                for fd in (0, 1, 2):  # as the zygote leaves them
                    os.dup2(null, fd)
                shim.run(*zygote.unpack_packet(packet, []), [os.dup(fd) for fd in fds])
            finally:
                os._exit(0)
        control.close()
        stream.close()
        self.connection.settimeout(WAIT_S)
        self.output.settimeout(WAIT_S)
        self._unpacker = frames.Unpacker()
        self._number = 0
        self.first = self.event()

    def event(self) -> dict[str, Any]:
        """The next thing the shim says."""
        while (message := self._unpacker.next()) is None:
            data = self.connection.recv(65536)
            assert data, "the shim is gone"
            self._unpacker.feed(data)
        return message

    def ask(self, operation: str, **fields: Any) -> dict[str, Any]:
        return self._answer(operation, **fields)["ok"]  # type: ignore[no-any-return]

    def refused(self, operation: str, **fields: Any) -> dict[str, Any]:
        return self._answer(operation, **fields)["error"]  # type: ignore[no-any-return]

    def _answer(self, operation: str, **fields: Any) -> dict[str, Any]:
        self._number += 1
        number = 1000 + self._number
        self.connection.sendall(frames.pack({"id": number, "op": operation, **fields}))
        while (message := self.event()).get("id") != number:
            continue
        return message

    def end(self) -> tuple[dict[str, Any], bytes]:
        """The exit record and all output, once both have come to their end."""
        while (record := self.event()).get("event") != "exit":
            continue
        output = b""
        while data := self.output.recv(65536):
            output += data
        self.close()
        return record, output

    def close(self) -> None:
        self.connection.close()
        self.output.close()
        os.waitpid(self.pid, 0)


class Place:
    """Where one container is: its layers, its state, its order."""

    def __init__(self, base: Path, runtime: str) -> None:
        self.base = base
        self.own = runtime == "davit"
        self.id = uuid.uuid4().hex
        for name in ("lower/bin", "lower/etc", "lower/proc", "lower/sys", "lower/dev", "lower/tmp", "upper", "work"):
            (base / name).mkdir(parents=True)
        shutil.copy(BUSYBOX, base / "lower/bin/busybox")
        for applet in ("sh", "cat", "echo", "sleep", "id", "stty", "tail", "true"):
            (base / "lower/bin" / applet).symlink_to("busybox")
        (base / "lower/etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nuser:x:77:88::/home/user:/bin/sh\n")
        (base / "lower/etc/group").write_text("root:x:0:\nuser:x:88:\nmore:x:99:user\n")
        self.sockets = Path("/tmp") / f"dvf-{self.id[:8]}"
        self.sockets.mkdir()

    def runtime(self, path: str | None = RUNC) -> dict[str, Any]:
        """The part of an order that names another runtime; nothing for davit's own."""
        wanted: dict[str, Any] = {
            "path": path,
            "args": [],
            "root": str(self.base / "state"),
            "directory": str(self.base),
        }
        return {} if self.own else {"runtime": wanted}

    @property
    def cgroup(self) -> Cgroup:
        return cgroups.detect().open(f"/davit/{self.id}")

    def order(self, *args: str, resources: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        spec = defaults.default_spec(cgroup_namespace=True)
        spec["process"] |= {"args": list(args), "cwd": "/"}
        spec["linux"]["cgroupsPath"] = f"/davit/{self.id}"
        spec["linux"]["resources"] |= resources or {}
        spec["ociVersion"] = "1.0.2"
        return {
            "id": self.id,
            "bundle": str(self.base),
            "spec": spec,
            "rootfs": {"lower": [f"{self.base}/lower"], "upper": f"{self.base}/upper", "work": f"{self.base}/work"},
            "log": {"driver": "json-file", "path": str(self.base / "log")},
            "socket": str(self.sockets / "c.sock"),
            "exit_file": str(self.base / "exit.json"),
            **self.runtime(),
        } | more

    def exec_order(self, pid: int, *args: str, **more: Any) -> dict[str, Any]:
        sets = defaults.capability_sets(["CAP_KILL"], 0)
        process = {"args": list(args), "cwd": "/", "env": ["PATH=/bin", "A=b"], "capabilities": sets}
        return {
            "id": self.id,
            "exec_id": uuid.uuid4().hex,
            "pid": pid,
            "cgroup": f"/davit/{self.id}",
            "process": process,
            "socket": str(self.sockets / "e.sock"),
            "exit_file": str(self.base / "exec.json"),
            **self.runtime(),
        } | more

    def nothing_left(self) -> bool:
        state = self.base / "state" / self.id
        return (
            not state.exists()
            and not self.cgroup.exists()
            and str(self.base) not in Path("/proc/self/mounts").read_text()
        )


@pytest.fixture(params=["davit", "runc"])
def place(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Place]:
    if os.geteuid() != 0:
        missing("root")
    if not BUSYBOX.exists():
        missing("busybox-static")
    if request.param == "runc" and RUNC is None:
        missing("runc")
    made = Place(tmp_path, request.param)
    yield made
    made.cgroup.kill()
    made.cgroup.remove()
    cgroups.detect().tidy()
    shutil.rmtree(made.sockets)


def _payloads(output: bytes) -> Iterator[bytes]:
    while output:
        size = int.from_bytes(output[4:8], "big")
        yield output[8 : 8 + size]
        output = output[8 + size :]


def test_output_log_user_and_exit_record(place: Place) -> None:
    script = "id -u; id -g; id -G; echo $HOME; exit 7"
    started = Started(place.order("sh", "-c", script, user={"user": "user", "groups": ["root"]}))
    assert started.first["event"] == "launched", started.first
    record, output = started.end()
    text = b"77\n88\n88 0 99\n/home/user\n"
    assert b"".join(_payloads(output)) == text
    assert record["exit_code"] == 7
    written = exitrecord.read(str(place.base / "exit.json"))
    assert written is not None
    assert (written.exit_code, written.error) == (7, "")
    assert (place.base / "log").read_text().count('"stream":"stdout"') == 4
    assert place.nothing_left()


def test_limits_freezing_statistics_and_signals(place: Place) -> None:
    resources = {"memory": {"limit": 64 << 20}, "pids": {"limit": 20}}
    started = Started(place.order("sleep", "300", resources=resources))
    pid = started.first["pid"]
    cgroup = place.cgroup
    assert cgroup.pids() == [pid]
    stats = cgroup.stats()
    assert (stats["memory"]["usage"]["limit"], stats["pids"]["limit"]) == (64 << 20, 20)
    cgroup.freeze()
    assert cgroup.frozen()
    cgroup.thaw()
    cgroup.apply({"memory": {"limit": 32 << 20}})
    assert cgroup.stats()["memory"]["usage"]["limit"] == 32 << 20
    started.ask("signal", number=signal.SIGKILL)
    assert started.end()[0]["exit_code"] == 137
    assert place.nothing_left()


def test_an_exec_and_what_it_inherits(place: Place) -> None:
    container = Started(place.order("sleep", "300"))
    execed = Started(place.exec_order(container.first["pid"], "sh", "-c", "echo $A; cat; exit 5", open_stdin=True))
    assert execed.first["pid"] in place.cgroup.pids()
    execed.output.sendall(b"typed\n")
    execed.output.shutdown(socket.SHUT_WR)
    execed.ask("close_stdin")
    record, output = execed.end()
    assert (record["exit_code"], b"".join(_payloads(output))) == (5, b"b\ntyped\n")
    refused = Started(place.exec_order(container.first["pid"], "nosuch"))
    assert "executable file not found" in refused.first["error"]["message"]
    refused.close()
    container.ask("signal", number=9, all=True)
    container.end()
    assert place.nothing_left()


def test_a_terminal(place: Place) -> None:
    started = Started(place.order("sh", "-c", "read line; stty size; exit 2", tty=True, open_stdin=True))
    started.ask("resize", rows=33, cols=99)
    started.output.sendall(b"go\n")
    record, output = started.end()
    assert (record["exit_code"], b"33 99" in output) == (2, True)
    assert place.nothing_left()


def test_out_of_memory(place: Place) -> None:
    resources = {"memory": {"limit": 16 << 20, "swap": 16 << 20}}
    record, _ = Started(place.order("tail", "/dev/zero", resources=resources)).end()
    assert (record["exit_code"], record["oom_killed"]) == (137, True)
    assert place.nothing_left()


def test_what_cannot_be_made_leaves_nothing(place: Place) -> None:
    started = Started(place.order("nosuch"))
    assert started.first["event"] == "failed"
    assert started.first["error"]["code"] == ("command" if place.own else "foreign")
    assert 'exec: "nosuch": executable file not found in $PATH' in started.first["error"]["message"]
    started.close()
    written = exitrecord.read(str(place.base / "exit.json"))
    assert written is not None
    assert written.exit_code == 127
    assert place.nothing_left()


def test_a_runtime_inherits_nothing_but_the_streams(place: Place) -> None:
    """A descriptor of the host's that reaches a container is a way out of it."""
    if place.own:
        pytest.skip("its own runtime has no program")
    said = place.base / "said"
    program = place.base / "runtime"
    program.write_text(f'#!/bin/sh\nls -l /proc/self/fd >> {said}\nexec {RUNC} "$@"\n')
    program.chmod(0o755)
    container = Started(place.order("sleep", "300", **place.runtime(str(program))))
    execed = Started(place.exec_order(container.first["pid"], "true", **place.runtime(str(program))))
    assert execed.end()[0]["exit_code"] == 0
    container.ask("signal", number=9)
    container.end()
    numbers = {line.partition(" -> ")[0].split()[-1] for line in said.read_text().splitlines() if " -> " in line}
    assert numbers == {"0", "1", "2", "3"}, said.read_text()  # 3 is the directory being listed


def test_it_can_wait_before_it_starts(place: Place) -> None:
    started = Started(place.order("echo", "now", start=False))
    assert started.first["status"] == "created"
    assert started.ask("start")["status"] in {"running", "stopped"}
    record, output = started.end()
    assert (record["exit_code"], b"".join(_payloads(output))) == (0, b"now\n")


def test_a_state_that_was_left_behind_is_in_nobodys_way(place: Place) -> None:
    first = Started(place.order("sleep", "300"))
    os.kill(first.pid, signal.SIGKILL)
    first.close()
    again = Started(place.order("echo", "again"))
    assert b"".join(_payloads(again.end()[1])) == b"again\n"
    assert eventually(place.nothing_left)


def test_an_overlay_without_a_place(place: Place) -> None:
    """As the agent looks into containers that do not run; by a thread where the kernel is old."""
    overlay = rootfs.Overlay(place.order("true")["rootfs"])
    before = Path("/proc/self/mountinfo").read_text()
    for mount in (overlay.detached, lambda: in_a_thread(overlay._copy_of_attached)):
        tree = mount()
        try:
            Path(f"/proc/self/fd/{tree}/tmp/made").write_text("seen\n")
            assert (place.base / "upper/tmp/made").read_text() == "seen\n"
            assert Path(f"/proc/self/fd/{tree}/etc/passwd").read_text().startswith("root:")
        finally:
            os.close(tree)
    assert Path("/proc/self/mountinfo").read_text() == before
    assert os.getcwd() == os.readlink("/proc/self/cwd")
