"""Making and entering network namespaces. Only the calling thread moves; the process stays where it is.

Source: setns(2), unshare(2), network_namespaces(7).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from functools import cache

CLONE_NEWNET = 0x40000000
OWN_NAMESPACE = "/proc/thread-self/ns/net"


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def open_own() -> int:
    """A descriptor of the calling thread's network namespace."""
    return os.open(OWN_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)


def open_of(pid: int) -> int:
    """A descriptor of a process's network namespace. Raises OSError when the process is gone."""
    return os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)


@contextlib.contextmanager
def entered(namespace_fd: int) -> Iterator[None]:
    """Run the block inside a network namespace, then return. Never around an `await`."""
    home = open_own()
    try:
        _check(_libc().setns(namespace_fd, CLONE_NEWNET), "cannot enter a network namespace")
        try:
            yield
        finally:
            _check(_libc().setns(home, CLONE_NEWNET), "cannot leave a network namespace")
    finally:
        os.close(home)


@contextlib.contextmanager
def created() -> Iterator[int]:
    """Run the block inside a new network namespace, then return; yields its descriptor, which the caller owns.

    The namespace lives as long as the descriptor or a process in it; when the block fails the descriptor is closed.
    """
    home = open_own()
    try:
        _check(_libc().unshare(CLONE_NEWNET), "cannot create a network namespace")
        try:
            fresh = open_own()
            try:
                yield fresh
            except BaseException:
                os.close(fresh)
                raise
        finally:
            _check(_libc().setns(home, CLONE_NEWNET), "cannot leave a network namespace")
    finally:
        os.close(home)


def set_sysctl(name: str, value: str) -> None:
    """Write ``net.…`` of the calling thread's namespace. Interface names may hold dots, so `name` uses slashes.

    Raises OSError when the kernel has no such setting or refuses the value.
    """
    with open(f"/proc/sys/{name}", "w") as setting:
        setting.write(value)


def get_sysctl(name: str) -> str:
    with open(f"/proc/sys/{name}") as setting:
        return setting.read().strip()
