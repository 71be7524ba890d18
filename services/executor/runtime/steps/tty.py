"""Terminals. The container's own devpts provides them, so that `tty` inside names a file that exists.

Source: OCI runtime-spec 1.2, config.md "terminal"; pty(7), TIOCGPTPEER in ioctl_tty(2).
"""

from __future__ import annotations

import fcntl
import os
import stat

from services.executor.runtime.errors import InvalidSpec, RuntimeFailure
from services.executor.runtime.kernel import beneath, mountcalls
from services.executor.runtime.kernel import calls as kernel

#: rows or columns; the kernel's struct winsize has 16 bits for each
LARGEST = 0xFFFF
_TIOCGPTPEER, _TIOCSPTLCK, _TIOCSWINSZ, _TIOCSCTTY = 0x5441, 0x40045431, 0x5414, 0x540E


def open_pair(root: int) -> tuple[int, int]:
    """(master, slave) of a new terminal of the devpts mounted at dev/pts beneath `root`.

    The container may have put something else in the place of ptmx: it must be the multiplexer device, and the slave is
    asked of the master itself, never opened by a path.
    """
    master = beneath.open_beneath(root, "/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY)
    found = os.fstat(master)
    if not stat.S_ISCHR(found.st_mode) or found.st_rdev != os.makedev(5, 2):
        os.close(master)
        raise RuntimeFailure("/dev/pts/ptmx is not the terminal multiplexer", step="console")
    with kernel.reporting("ioctl", "/dev/pts/ptmx"):
        fcntl.ioctl(master, _TIOCSPTLCK, b"\0\0\0\0")
    return master, open_slave(master)


def open_slave(master: int) -> int:
    """The other end of a terminal, without a path and without making it anybody's controlling terminal."""
    with kernel.reporting("ioctl TIOCGPTPEER", ""):
        slave: int = fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    return slave


def set_size(fd: int, rows: int, columns: int) -> None:
    """Set the window's size; the foreground process group gets SIGWINCH from the kernel.

    Raises:
        InvalidSpec: a number that is negative or has more than 16 bits.
    """
    if not (0 <= rows <= LARGEST and 0 <= columns <= LARGEST):
        raise InvalidSpec("process.consoleSize", f"{rows}x{columns}: each must be from 0 to {LARGEST}")
    packed = b"".join(value.to_bytes(2, "little") for value in (rows, columns, 0, 0))
    with kernel.reporting("ioctl TIOCSWINSZ", f"{rows}x{columns}"):
        fcntl.ioctl(fd, _TIOCSWINSZ, packed)


def no_carriage_returns(master: int) -> None:
    """A line the container writes ends in a line feed alone: our own terminal adds what it needs, a file needs none."""
    import termios

    attributes = termios.tcgetattr(master)
    attributes[1] &= ~termios.ONLCR
    termios.tcsetattr(master, termios.TCSANOW, attributes)


def bind_console(root: int, slave: int) -> None:
    """Show the terminal as /dev/console."""
    target = beneath.make_file(root, "/dev/console", 0o666)
    tree = mountcalls.clone_tree(slave, "", recursive=False)
    mountcalls.attach(tree, target, "/dev/console")
    os.close(tree)
    os.close(target)


def use(slave: int) -> None:
    """Make the terminal standard input, output and error."""
    for fd in (0, 1, 2):
        os.dup2(slave, fd)
    if slave > 2:
        os.close(slave)


def take_control() -> None:
    """Make the terminal on standard input the controlling one of this session, of which we are the leader."""
    with kernel.reporting("ioctl TIOCSCTTY", ""):
        fcntl.ioctl(0, _TIOCSCTTY, 0)
