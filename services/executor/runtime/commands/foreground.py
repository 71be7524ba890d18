"""A container in the foreground: its streams copied, signals passed on, its exit code ours.

Its standard streams are pipes of its own even then: descriptors of the caller's terminal and files stay outside.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` itself costs an enum module
import os
import select

from services.executor.runtime.errors import RuntimeFailure
from services.executor.runtime.steps import tty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from services.executor.runtime.commands import notify

_READ_BYTES = 1 << 16
_KEPT = frozenset({_signal.SIGKILL, _signal.SIGSTOP, _signal.SIGCHLD, _signal.SIGURG})


class Streams:
    """Ends for the process and for us.

    Attributes:
        theirs: descriptors for the process.
        copies: descriptor to read -> descriptor to write.
    """

    def __init__(self, *, terminal: bool, detach: bool) -> None:
        self.theirs = (0, 1, 2)
        self.copies: dict[int, int] = {}
        self._opened: list[int] = []
        self.master: int | None = None
        self._saved: list[object] | None = None
        if detach:
            return
        if terminal:
            null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
            self._opened = [null]
            self.theirs = (null, null, null)
            return
        ends = []
        for fd in (0, 1, 2):
            read, write = os.pipe2(os.O_CLOEXEC)
            ends.append(read if fd == 0 else write)
            if fd == 0:
                self.copies[0] = write
            else:
                self.copies[read] = fd
        self._opened = ends
        self.theirs = (ends[0], ends[1], ends[2])

    def close_theirs(self) -> None:
        """After the clone."""
        for fd in self._opened:
            os.close(fd)

    def take_terminal(self, master: int) -> None:
        """Copy between the container's terminal and ours, ours in raw mode."""
        self.master = master
        tty.no_carriage_returns(master)
        self.copies = {0: master, master: 1}
        if os.isatty(0):
            import termios

            self._saved = list(termios.tcgetattr(0))
            raw = termios.tcgetattr(0)
            raw[0] &= ~(
                termios.IGNBRK
                | termios.BRKINT
                | termios.PARMRK
                | termios.ISTRIP
                | termios.INLCR
                | termios.IGNCR
                | termios.ICRNL
                | termios.IXON
            )
            raw[1] |= termios.OPOST  # lines of the container's end without the carriage return that ours needs
            raw[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
            raw[2] = raw[2] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
            termios.tcsetattr(0, termios.TCSANOW, raw)
            self.resize()

    def resize(self) -> None:
        """Give the container's terminal the size of ours."""
        if self.master is not None and os.isatty(0):
            size = os.get_terminal_size(0)
            tty.set_size(self.master, size.lines, size.columns)

    def restore(self) -> None:
        """Our terminal as it was."""
        if self._saved is not None:
            import termios

            termios.tcsetattr(0, termios.TCSANOW, self._saved)  # type: ignore[arg-type]


def catch_signals() -> int:
    """Collect signals from now on; they are read as bytes from the descriptor returned."""
    read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    _signal.set_wakeup_fd(write)
    for number in range(1, 65):
        if number not in _KEPT:
            try:
                _signal.signal(number, lambda *_: None)
            except (OSError, ValueError):
                continue
    return read


def attend(pid: int, streams: Streams, signals: int, ready: notify.Listener | None = None) -> int:
    """Copy and pass on until the process has ended; returns its exit code, 128 + n for signal n."""
    pidfd = os.pidfd_open(pid)
    poller = select.poll()
    for fd in (pidfd, signals, *streams.copies, *([ready.fileno()] if ready is not None else [])):
        poller.register(fd, select.POLLIN)
    ended = False
    try:
        while not ended:
            for fd, _events in poller.poll():
                if fd == pidfd:
                    ended = True
                elif fd == signals:
                    _pass_on(pid, os.read(signals, 64), streams)
                elif ready is not None and fd == ready.fileno():
                    ready.receive(pid)
                elif fd in streams.copies:
                    _copy(fd, streams, poller)
        _, status = os.waitpid(pid, 0)
        _drain(streams)
    finally:
        streams.restore()
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def _pass_on(pid: int, numbers: bytes, streams: Streams) -> None:
    for number in numbers:
        if number == _signal.SIGWINCH and streams.master is not None:
            streams.resize()
            continue
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return


def _copy(source: int, streams: Streams, poller: select.poll) -> None:
    target = streams.copies[source]
    try:
        data = os.read(source, _READ_BYTES)
        view = memoryview(data)
        while view:
            view = view[os.write(target, view) :]
    except OSError:  # EIO: the terminal's other end is closed; EPIPE: nobody reads
        data = b""
    if not data:
        poller.unregister(source)
        del streams.copies[source]
        if source == 0 and streams.master is None:
            os.close(target)


def _drain(streams: Streams) -> None:
    """What was written before the end. Processes left behind may hold the pipes open; they are not waited for."""
    poller = select.poll()
    for source in list(streams.copies):
        if source != 0:
            poller.register(source, select.POLLIN)
    while len(streams.copies) > (0 in streams.copies):
        ready = poller.poll(0 if streams.master is not None else 10)
        if not ready:
            return
        for fd, _events in ready:
            _copy(fd, streams, poller)


def send_fd(path: str, name: bytes, fd: int) -> None:
    """Hand a descriptor (a terminal's end, a pidfd) to whoever listens at `path`, with a name for it.

    Raises:
        RuntimeFailure: nobody does.
    """
    import _socket

    socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        socket.connect(path)
        packed = fd.to_bytes(4, "little")
        socket.sendmsg([name], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, packed)])
    except OSError as error:
        raise RuntimeFailure(
            f"dial unix {path}: connect: {(error.strerror or '').lower()}", errno=error.errno
        ) from None
    finally:
        socket.close()
