"""Descriptors that leave the runtime: a terminal, a pidfd, a seccomp listener; and terminals in the foreground."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import struct
import subprocess
import termios
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.runtime.conftest import Bundle, Runtime, eventually

pytestmark = pytest.mark.root

_NOTIFY_RECEIVE, _NOTIFY_SEND, _CONTINUE = 0xC0502100, 0xC0182101, 1


@contextlib.contextmanager
def listening(path: Path, take: Callable[[bytes, int], None]) -> Iterator[None]:
    """A socket; `take` gets each message with its descriptor, which it owns."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen(4)
    server.settimeout(0.1)
    ended = threading.Event()

    def serve() -> None:
        while not ended.is_set():
            try:
                connection, _ = server.accept()
            except TimeoutError:
                continue
            with connection:
                data, fds, _, _ = socket.recv_fds(connection, 65536, 4)
                take(data, fds[0])

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        server.close()


class TestConsoleSocket:
    def test_it_gets_the_terminal(self, oci: Runtime, bundle: Bundle) -> None:
        bundle.process["terminal"] = True
        bundle.process["consoleSize"] = {"height": 10, "width": 110}
        bundle.shell("stty size; tty; read line; echo got $line")
        bundle.write()
        masters: list[int] = []
        path = oci.directory / "console"
        with listening(path, lambda _, fd: masters.append(fd)):
            arguments = ["--console-socket", str(path), "-b", str(bundle.directory)]
            assert oci.call("run", "--detach", *arguments, oci.new_id()).code == 0
            (master,) = eventually(lambda: masters)
        os.write(master, b"word\n")
        said = b""
        while b"got word" not in said:
            assert select.select([master], [], [], 10)[0], said
            said += os.read(master, 4096)
        os.close(master)
        lines = said.decode().splitlines()
        assert "/dev/pts/0" in lines
        if oci.is_ours:  # runc 1.1 leaves the size to whoever has the terminal
            assert "10 110" in lines

    def test_one_that_nobody_listens_at_is_an_error(self, oci: Runtime, bundle: Bundle) -> None:
        bundle.process["terminal"] = True
        bundle.write()
        container = oci.new_id()
        result = oci.call("create", "--console-socket", "/nonexistent", "-b", str(bundle.directory), container)
        assert (result.code, "dial unix /nonexistent: connect: no such file" in result.err) == (1, True)
        assert oci.call("state", container).code == 1


class TestForeground:
    def test_a_terminal_without_one_outside(self, oci: Runtime, bundle: Bundle) -> None:
        """As in a script: output is a file. Lines end as a file's do."""
        if not oci.is_ours:
            pytest.skip("runc 1.1 needs a /dev/tty of its own for it")
        bundle.process["terminal"] = True
        bundle.shell("tty; stat -c %u:%g $(tty); exit 3")
        result = oci.run(bundle)
        assert (result.code, result.out) == (3, "/dev/pts/0\n0:5\n")

    @pytest.mark.parametrize("controlling", [True, False])
    def test_a_terminal_on_one_outside(self, oci: Runtime, bundle: Bundle, controlling: bool) -> None:
        """It has that one's size from the start, whose change is told to no stage of the container's birth."""
        bundle.process["terminal"] = True
        bundle.process["consoleSize"] = {"height": 10, "width": 110}
        bundle.shell("stty size; tty; exit 3")
        bundle.write()
        ours, theirs = os.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 77, 0, 0))
        process = subprocess.Popen(
            [*oci.command, "run", "-b", str(bundle.directory), oci.new_id()],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=(lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0)) if controlling else None,  # noqa: PLW1509
        )
        os.close(theirs)
        said = b""
        with contextlib.suppress(OSError):  # EIO: the other end is closed
            while data := os.read(ours, 4096):
                said += data
        os.close(ours)
        size, _, rest = said.partition(b"\r\n")
        assert (process.wait(10), rest) == (3, b"/dev/pts/0\r\n")
        # runc changes it beside the program, which may be first
        assert size == b"33 77" or (size == b"10 110" and not oci.is_ours)

    def test_an_exec_with_one(self, oci: Runtime, bundle: Bundle) -> None:
        if not oci.is_ours:
            pytest.skip("runc 1.1 needs a /dev/tty of its own for it")
        container = oci.running(bundle)
        assert oci.call("exec", "-t", container, "tty").out == "/dev/pts/0\n"


class TestNotifySocket:
    """sd_notify: who started the container hears that it is ready."""

    #: busybox has but this to write a datagram with; what syslog(3) puts before the text is a line of its own
    READY = "ln -s /run/notify/notify.sock /dev/log; logger \"$(printf 'x\\nREADY=1')\""

    @pytest.fixture
    def heard(self, oci: Runtime, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
        if not oci.is_ours:
            pytest.skip("runc 1.1 has it too, but waits half a minute for what it has sent to be read")
        path = oci.directory / "n"
        server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        server.bind(str(path))
        server.settimeout(0.05)
        heard: list[str] = []
        ended = threading.Event()

        def listen() -> None:
            while not ended.is_set():
                with contextlib.suppress(TimeoutError):
                    data, fds, _, _ = socket.recv_fds(server, 4096, 4)
                    heard.extend(data.decode().split())
                    for fd in fds:
                        os.close(fd)

        thread = threading.Thread(target=listen)
        thread.start()
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        yield heard
        ended.set()
        thread.join()
        server.close()

    def container(self, oci: Runtime, bundle: Bundle, script: str, *command: str) -> str:
        (bundle.rootfs / "bin" / "logger").symlink_to("busybox")
        bundle.shell(script)
        bundle.write()
        container = oci.new_id()
        result = oci.call(*command, "-b", str(bundle.directory), container)
        assert result.code == 0, result
        return container

    def test_run_returns_when_the_container_is_ready(self, oci: Runtime, bundle: Bundle, heard: list[str]) -> None:
        script = f"sleep 0.3; touch /reached; {self.READY}; sleep 300"
        container = self.container(oci, bundle, script, "run", "--detach")
        assert (bundle.rootfs / "reached").exists()
        pid = oci.state(container)["pid"]
        eventually(lambda: {"READY=1", f"MAINPID={pid}"} <= set(heard))

    def test_so_does_start(self, oci: Runtime, bundle: Bundle, heard: list[str]) -> None:
        script = f"sleep 0.3; touch /reached; {self.READY}; sleep 300"
        container = self.container(oci, bundle, script, "create")
        assert oci.call("start", container).code == 0
        assert (bundle.rootfs / "reached").exists()
        eventually(lambda: "READY=1" in heard)
        assert oci.call("exec", container, "sh", "-c", "echo $NOTIFY_SOCKET").out == "/run/notify/notify.sock\n"

    def test_one_that_ends_first_is_not_waited_for(self, oci: Runtime, bundle: Bundle, heard: list[str]) -> None:
        self.container(oci, bundle, "true", "run", "--detach")
        assert heard == []

    def test_in_the_foreground_it_is_passed_on_beside_the_streams(
        self, oci: Runtime, bundle: Bundle, heard: list[str]
    ) -> None:
        self.container(oci, bundle, f"{self.READY}; sleep 1", "run")
        eventually(lambda: "READY=1" in heard)


class TestPidfdSocket:
    @pytest.mark.parametrize("command", ["create", "run"])
    def test_it_gets_one_of_the_first_process(self, oci: Runtime, bundle: Bundle, command: str) -> None:
        if not oci.is_ours:
            pytest.skip("runc has it from 1.2 on")
        bundle.process["args"] = ["sleep", "300"]
        bundle.write()
        path = oci.directory / "pidfd"

        fds: list[int] = []
        with listening(path, lambda _, fd: fds.append(fd)):
            detach = ["--detach"] if command == "run" else []
            arguments = [*detach, "--pidfd-socket", str(path), "-b", str(bundle.directory)]
            assert oci.call(command, *arguments, oci.new_id()).code == 0
        signal.pidfd_send_signal(fds[0], signal.SIGKILL)
        os.close(fds[0])
        oci.reaches(oci.ids[-1], "stopped")


class Agent:
    """Answers system calls that notify it: mkdir(2) is refused with ENODEV, others go on."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.threads: list[threading.Thread] = []

    def take(self, data: bytes, fd: int) -> None:
        self.messages.append(json.loads(data))
        self.threads.append(threading.Thread(target=self.answer, args=(fd,)))
        self.threads[-1].start()

    def answer(self, fd: int) -> None:
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        try:
            while all(not events & select.POLLHUP for _, events in poller.poll(20_000)):
                call = bytearray(80)
                try:
                    fcntl.ioctl(fd, _NOTIFY_RECEIVE, call)
                except FileNotFoundError:  # a signal came in between (Go's scheduler sends them): it calls again
                    continue
                number, _, _, syscall = struct.unpack_from("<QIIi", call)
                refused = syscall == 83
                answer = struct.pack("<QqiI", number, 0, -19 if refused else 0, 0 if refused else _CONTINUE)
                fcntl.ioctl(fd, _NOTIFY_SEND, bytearray(answer))
        finally:
            os.close(fd)


class TestSeccompListener:
    @pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of system calls are x86_64's")
    @pytest.mark.parametrize("no_new_privileges", [True, False])
    def test_it_gets_the_listener_of_run_and_of_exec(
        self, oci: Runtime, bundle: Bundle, no_new_privileges: bool
    ) -> None:
        path, agent = oci.directory / "agent", Agent()
        bundle.process["noNewPrivileges"] = no_new_privileges
        rule: dict[str, Any] = {"action": "SCMP_ACT_NOTIFY"}
        bundle.linux["seccomp"] = {
            "defaultAction": "SCMP_ACT_ALLOW",
            "listenerPath": str(path),
            "listenerMetadata": "text of ours",
            "syscalls": [rule],
        }
        # what the runtime itself calls after the filter is there
        rule["names"] = ["mkdir", "execve", "openat", "open", "read", "close"]
        with listening(path, agent.take):
            bundle.shell("mkdir /dev/shm/x 2>&1")
            assert "No such device" in oci.run(bundle).out
            rule["names"] = ["mkdir"]
            container = oci.running(bundle)
            assert "No such device" in oci.call("exec", container, "mkdir", "/dev/shm/x").err
            oci.stop(container)
        for thread in agent.threads:
            thread.join(20)
        ran, _, executed = agent.messages
        assert (ran["fds"], ran["metadata"]) == (["seccompFd"], "text of ours")
        assert (ran["state"]["status"], ran["state"]["bundle"]) == ("creating", str(bundle.directory))
        assert ran["state"]["pid"] == ran["pid"]
        assert executed["state"]["status"] == "running"
        assert executed["state"]["pid"] != executed["pid"]

    def test_nobody_listens(self, oci: Runtime, bundle: Bundle) -> None:
        bundle.linux["seccomp"] = {
            "defaultAction": "SCMP_ACT_ALLOW",
            "listenerPath": "/nonexistent",
            "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}],
        }
        result = oci.run(bundle)
        assert (result.code, "failed to connect with seccomp agent" in result.err) == (1, True)
