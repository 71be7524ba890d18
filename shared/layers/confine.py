"""Giving up what a reader or writer of archives does not need: the rest of the file system, and most capabilities.

Source: chroot(2), capabilities(7), prctl(2).
"""

from __future__ import annotations

import ctypes
import os
import struct
from functools import cache

_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_CAPABILITY_VERSION_3 = 0x20080522
_LAST_KNOWN_CAPABILITY = 63

CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER, CAP_FSETID = 0, 1, 2, 3, 4
CAP_SYS_CHROOT, CAP_SYS_ADMIN, CAP_MKNOD, CAP_SETFCAP = 18, 21, 27, 31
# SYS_ADMIN is for trusted.* attributes, overlayfs's own; without the others and outside of every path it opens little.
KEPT = (
    CAP_CHOWN,
    CAP_DAC_OVERRIDE,
    CAP_DAC_READ_SEARCH,
    CAP_FOWNER,
    CAP_FSETID,
    CAP_SYS_ADMIN,
    CAP_MKNOD,
    CAP_SETFCAP,
)


@cache
def libc() -> ctypes.CDLL:
    """The C library, for calls that `os` lacks."""
    return ctypes.CDLL(None, use_errno=True)


def renounce() -> None:
    """Give up for this process, and all that it forks, what no child keeps. What `confine` needs stays until then.

    Raises:
        OSError: The kernel refused.
    """
    _call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    for capability in range(_LAST_KNOWN_CAPABILITY + 1):
        # Refused for numbers that this kernel does not have; `confine` drops all that matter.
        if capability not in KEPT and libc().prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
            break


def confine(root: int) -> None:
    """Make a directory this process's whole file system, for good, after `renounce`.

    Args:
        root: A descriptor of the directory; closed here, as it would be a way out.

    Raises:
        OSError: The kernel refused. The caller must not go on.
    """
    os.fchdir(root)
    os.chroot(".")
    os.chdir("/")
    os.close(root)
    os.umask(0)
    bits = sum(1 << capability for capability in KEPT)
    bits &= _effective()
    low, high = bits & 0xFFFFFFFF, bits >> 32
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0))
    data = ctypes.create_string_buffer(struct.pack("=6I", low, low, 0, high, high, 0))
    _call("capset", header, data)


def _effective() -> int:
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0))
    data = ctypes.create_string_buffer(24)
    _call("capget", header, data)
    low, _, _, high, _, _ = struct.unpack("=6I", data.raw[:24])
    return int(low | high << 32)


def _call(name: str, *arguments: object) -> None:
    if getattr(libc(), name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
