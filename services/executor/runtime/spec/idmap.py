"""Id maps: what uids and gids of a user namespace, or of an id-mapped mount, are outside.

Source: user_namespaces(7), newuidmap(1), mount_setattr(2); runtime-spec config-linux.md#user-namespace-mappings,
config.md#mounts.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` itself costs an enum module
import errno
import itertools
import os

from services.executor.runtime.errors import InvalidSpec, KernelFailure, RuntimeFailure
from services.executor.runtime.kernel import calls as kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_MAX_ID = 2**32 - 2
_MOST_IDS = 2**32 - 1
_MAX_LINES = 340
_MOST_SAID_BYTES = 1000
_HELPERS = {"uid_map": "newuidmap", "gid_map": "newgidmap"}
_HELPER_PATHS = ("/usr/bin", "/bin", "/usr/local/bin", "/usr/sbin", "/sbin")


def map_lines(mappings: Sequence[dict[str, Any]], field: str) -> list[str]:
    """Lines for /proc/<pid>/uid_map: `containerID hostID size`.

    Raises:
        InvalidSpec: a number is missing or out of range, or ranges overlap.
    """
    if len(mappings) > _MAX_LINES:
        raise InvalidSpec(field, f"the kernel takes {_MAX_LINES} ranges, there are {len(mappings)}")
    rows: list[tuple[int, int, int]] = []
    for index, entry in enumerate(mappings):
        row = []
        for key in ("containerID", "hostID", "size"):
            value = entry.get(key)
            most = _MOST_IDS if key == "size" else _MAX_ID
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
                raise InvalidSpec(f"{field}[{index}].{key}", f"{value!r} is not an id")
            row.append(value)
        if row[2] == 0:
            raise InvalidSpec(f"{field}[{index}].size", "must not be 0")
        if max(row[:2]) + row[2] > _MOST_IDS:
            raise InvalidSpec(f"{field}[{index}].size", f"there are no {row[2]} ids from {max(row[:2])} on")
        rows.append((row[0], row[1], row[2]))
    for side in (0, 1):
        ordered = sorted(rows, key=lambda row: row[side])
        for one, two in itertools.pairwise(ordered):
            if one[side] + one[2] > two[side]:
                raise InvalidSpec(field, f"the ranges at {one[side]} and {two[side]} overlap")
    return [" ".join(map(str, row)) for row in rows]


def host_id(mappings: Sequence[dict[str, Any]], container_id: int) -> int | None:
    """The id outside, or None when it is not mapped."""
    for entry in mappings:
        offset = container_id - int(entry["containerID"])
        if 0 <= offset < int(entry["size"]):
            return int(entry["hostID"]) + offset
    return None


def write_maps(pid: int, uid_lines: Sequence[str], gid_lines: Sequence[str]) -> None:
    """Give the user namespace of `pid` its maps, once.

    With the privileges, directly. Without (rootless), one's own single id can still be mapped directly, when setgroups
    is given up first; more is the business of the set-uid helpers newuidmap and newgidmap, which ask /etc/subuid and
    /etc/subgid.

    Raises:
        KernelFailure: EPERM.
        RuntimeFailure: a helper is not installed, or refuses.
    """
    if _is_own(uid_lines, os.geteuid()) and _is_own(gid_lines, os.getegid()) and os.geteuid() != 0:
        _write(f"/proc/{pid}/setgroups", "deny")
    for name, lines in (("uid_map", uid_lines), ("gid_map", gid_lines)):
        try:
            _write(f"/proc/{pid}/{name}", "\n".join(lines) + "\n")
        except KernelFailure as failure:
            if failure.errno != errno.EPERM or os.geteuid() == 0:
                raise
            _ask_helper(_HELPERS[name], pid, lines)


def _is_own(lines: Sequence[str], own: int) -> bool:
    return len(lines) == 1 and lines[0].split()[1:] == [str(own), "1"]


def _ask_helper(helper: str, pid: int, lines: Sequence[str]) -> None:
    program = next((path for path in (f"{each}/{helper}" for each in _HELPER_PATHS) if os.access(path, os.X_OK)), None)
    if program is None:
        raise RuntimeFailure(
            f"{helper} is needed to map more than one's own id, and is not installed", step="namespaces"
        )
    arguments = [helper, str(pid), *(number for line in lines for number in line.split())]
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        said_there = [(os.POSIX_SPAWN_DUP2, writer, 2)]
        child = os.posix_spawn(program, arguments, {"PATH": ":".join(_HELPER_PATHS)}, file_actions=said_there)
        _, status = os.waitpid(child, 0)
        os.close(writer)
        said = os.read(reader, _MOST_SAID_BYTES).decode(errors="replace").strip()
    finally:
        os.close(reader)
    if status != 0:
        code = os.waitstatus_to_exitcode(status)
        raise RuntimeFailure(
            f"{' '.join(arguments)} ended with {code} ({said}): see /etc/subuid and /etc/subgid", step="namespaces"
        )


def user_namespace(uid_lines: Sequence[str], gid_lines: Sequence[str]) -> int:
    """A descriptor of a new user namespace with these maps, that no process is in: what an id-mapped mount refers to.

    Needs CAP_SYS_ADMIN in the namespace it is called in, as the mount will.

    Raises:
        KernelFailure: no more user namespaces (ENOSPC), or no privilege (EPERM).
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        pid = kernel.clone(kernel.CLONE_NEWUSER)
        if pid == 0:
            _wait_for_end(reader, writer)
        try:
            write_maps(pid, uid_lines, gid_lines)
            with kernel.reporting("open", f"/proc/{pid}/ns/user"):
                return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.kill(pid, _signal.SIGKILL)
            os.waitpid(pid, 0)
    finally:
        os.close(reader)
        os.close(writer)


def _wait_for_end(reader: int, writer: int) -> None:
    # Also when the parent is killed before it can kill us: the pipe then has no writer left.
    try:
        os.close(writer)
        os.read(reader, 1)
    finally:
        os._exit(0)


def _write(path: str, text: str) -> None:
    with kernel.reporting("write", path):
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)
