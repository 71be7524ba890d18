"""Namespaces of a container: which are new, which are joined, in what order.

Source: OCI runtime-spec 1.2, config-linux.md "Namespaces", "User namespace mappings", "Offset for Time Namespace";
namespaces(7), user_namespaces(7), time_namespaces(7).
"""

from __future__ import annotations

import os

from services.executor.runtime.errors import InvalidSpec, KernelFailure
from services.executor.runtime.kernel import calls as kernel
from services.executor.runtime.spec import idmap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FLAGS = {
    "user": kernel.CLONE_NEWUSER,
    "ipc": kernel.CLONE_NEWIPC,
    "uts": kernel.CLONE_NEWUTS,
    "network": kernel.CLONE_NEWNET,
    "pid": kernel.CLONE_NEWPID,
    "cgroup": kernel.CLONE_NEWCGROUP,
    "mount": kernel.CLONE_NEWNS,
    "time": kernel.CLONE_NEWTIME,
}
#: name of the namespace -> its file in /proc/<pid>/ns
FILES = {
    "user": "user",
    "ipc": "ipc",
    "uts": "uts",
    "network": "net",
    "pid": "pid",
    "cgroup": "cgroup",
    "mount": "mnt",
    "time": "time",
}


class Namespaces:
    """The plan.

    Attributes:
        new: kinds that the container gets for itself.
        paths: kind -> file of a namespace to join.
        uid_maps, gid_maps: lines for /proc/<pid>/uid_map, when a user namespace is new; without mappings in the spec
            the process's ids are ours, and there are no others.
        time_offsets: lines for /proc/<pid>/timens_offsets.
    """

    __slots__ = ("gid_maps", "new", "paths", "time_offsets", "uid_maps")

    def __init__(self, spec: dict[str, Any]) -> None:
        linux = spec.get("linux") or {}
        self.new: set[str] = set()
        self.paths: dict[str, str] = {}
        for i, entry in enumerate(linux.get("namespaces") or []):
            self._add(f"linux.namespaces[{i}]", entry)
        self.uid_maps = idmap.map_lines(linux.get("uidMappings") or [], "linux.uidMappings")
        self.gid_maps = idmap.map_lines(linux.get("gidMappings") or [], "linux.gidMappings")
        if "user" in self.new and not self.uid_maps and not self.gid_maps:
            user = (spec.get("process") or {}).get("user") or {}
            self.uid_maps = [f"{user.get('uid') or 0} {os.geteuid()} 1"]
            self.gid_maps = [f"{user.get('gid') or 0} {os.getegid()} 1"]
        if "user" in self.new and not (self.uid_maps and self.gid_maps):
            raise InvalidSpec("linux.uidMappings", "uidMappings and gidMappings go together")
        if (self.uid_maps or self.gid_maps) and not self.has("user"):
            raise InvalidSpec("linux.uidMappings", "id mappings need a user namespace")
        self.time_offsets = [
            f"{clock} {value.get('secs', 0)} {value.get('nanosecs', 0)}"
            for clock, value in (linux.get("timeOffsets") or {}).items()
        ]
        if self.time_offsets and "time" not in self.new:
            raise InvalidSpec("linux.timeOffsets", "needs a new time namespace")

    def _add(self, field: str, entry: dict[str, Any]) -> None:
        kind, path = entry.get("type"), entry.get("path")
        if kind not in FLAGS:
            raise InvalidSpec(f"{field}.type", f'unknown namespace "{kind}"')
        if self.has(kind):
            raise InvalidSpec(f"{field}.type", f"{kind} is given twice")
        if not os.path.exists(f"/proc/self/ns/{FILES[kind]}"):
            raise InvalidSpec(f"{field}.type", f"this kernel has no {kind} namespaces")
        if not path:
            self.new.add(kind)
            return
        if not path.startswith("/"):
            raise InvalidSpec(f"{field}.path", "must be an absolute path")
        self.paths[kind] = path

    def has(self, kind: str) -> bool:
        """Whether the container does not share the runtime's."""
        return kind in self.new or kind in self.paths

    def is_private(self, kind: str) -> bool:
        """`has`, and one that is joined is not the runtime's own by another name."""
        if kind not in self.paths:
            return kind in self.new
        return not os.path.exists(self.paths[kind]) or not os.path.samefile(
            self.paths[kind], f"/proc/self/ns/{FILES[kind]}"
        )

    @property
    def needs_stage(self) -> bool:
        """Whether a process in between must set things up before the container's first process can be born."""
        return self.has("user") or self.has("time") or "pid" in self.paths

    def clone_flags(self, *, staged: bool) -> int:
        """CLONE_NEW* for the birth of the container's first process.

        Not the cgroup namespace: its root is the cgroup one is in when it is made, so it comes after joining. Not the
        user and time namespaces when the stage has made them already.
        """
        left = self.new - {"cgroup"} - ({"user", "time"} if staged else set())
        return sum(FLAGS[kind] for kind in left)


def open_all(paths: dict[str, str]) -> dict[str, int]:
    """Descriptors of the namespaces to join, opened before anything moves."""
    fds = {}
    for kind, path in paths.items():
        with kernel.reporting("open", path):
            fds[kind] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    return fds


def join(fds: dict[str, int], paths: dict[str, str]) -> None:
    """Enter the namespaces: what our present privileges allow first, then the user namespace, then the rest.

    A namespace may belong to the host's user namespace or to the one joined here; trying tells.
    """
    left = [kind for kind in fds if kind != "user"]
    for kind in list(left):
        try:
            kernel.setns(fds[kind], FLAGS[kind], paths[kind])
            left.remove(kind)
        except KernelFailure:
            if "user" not in fds:
                raise
    if "user" in fds:
        kernel.setns(fds["user"], FLAGS["user"], paths["user"])
        for kind in left:
            kernel.setns(fds[kind], FLAGS[kind], paths[kind])
    for fd in fds.values():
        os.close(fd)


def write_time_offsets(process: str, lines: list[str]) -> None:
    """For the time namespace of a process's children to come; refused once one is in it.

    Args:
        process: "self" or an id.
    """
    path = f"/proc/{process}/timens_offsets"
    if lines:
        with kernel.reporting("write", path):
            _write(path, "\n".join(lines) + "\n")


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def raise_loopback() -> None:
    """Bring up "lo" of a new network namespace. Source: netdevice(7)."""
    import _socket
    import fcntl

    probe = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    try:
        with kernel.reporting("ioctl SIOCSIFFLAGS", "lo"):
            # struct ifreq: 16 bytes of name, short flags (IFF_UP | IFF_RUNNING)
            fcntl.ioctl(probe.fileno(), 0x8914, b"lo".ljust(16, b"\0") + (0x41).to_bytes(2, "little") + bytes(22))
    finally:
        probe.close()
