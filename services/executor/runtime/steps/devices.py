"""Device nodes, and the links that every /dev has.

Source: OCI runtime-spec 1.2, config-linux.md "Devices", "Default Devices" and "/dev symbolic links".
"""

from __future__ import annotations

import errno
import os
import stat

from services.executor.runtime.errors import InvalidSpec, RuntimeFailure
from services.executor.runtime.kernel import beneath, mountcalls
from services.executor.runtime.kernel import calls as kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_KINDS = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}
_LINKS = (
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
)


class Device:
    """A node to make: `path` in the container, `mode` with its type bits, `number`, owner."""

    __slots__ = ("gid", "mode", "number", "path", "uid")

    def __init__(self, path: str, mode: int, number: int, uid: int = 0, gid: int = 0) -> None:
        self.path = path
        self.mode = mode
        self.number = number
        self.uid = uid
        self.gid = gid


def _default(name: str, major: int, minor: int) -> Device:
    return Device(f"/dev/{name}", stat.S_IFCHR | 0o666, os.makedev(major, minor))


DEFAULT_DEVICES = (
    _default("null", 1, 3),
    _default("zero", 1, 5),
    _default("full", 1, 7),
    _default("random", 1, 8),
    _default("urandom", 1, 9),
    _default("tty", 5, 0),
)


def plan(spec: dict[str, Any]) -> list[Device]:
    """The spec's devices, and the default ones it does not mention."""
    devices = [
        _device(f"linux.devices[{i}]", entry) for i, entry in enumerate((spec.get("linux") or {}).get("devices") or [])
    ]
    mentioned = {device.path for device in devices}
    return devices + [device for device in DEFAULT_DEVICES if device.path not in mentioned]


def _device(field: str, entry: dict[str, Any]) -> Device:
    path, kind = entry.get("path"), entry.get("type")
    if not isinstance(path, str) or not path.startswith("/"):
        raise InvalidSpec(f"{field}.path", "must be an absolute path")
    if kind not in _KINDS:
        raise InvalidSpec(f"{field}.type", f'must be "c", "b", "u" or "p", not "{kind}"')
    if kind != "p" and (not isinstance(entry.get("major"), int) or not isinstance(entry.get("minor"), int)):
        raise InvalidSpec(f"{field}.major", "major and minor are required")
    number = 0 if kind == "p" else os.makedev(entry["major"], entry["minor"])
    mode = _KINDS[kind] | (entry.get("fileMode", 0o666) & 0o7777)
    return Device(os.path.normpath(path), mode, number, entry.get("uid") or 0, entry.get("gid") or 0)


def create(root: int, devices: list[Device], *, by_bind: bool) -> None:
    """Make the nodes; in a user namespace, where mknod(2) is refused, the host's are bind-mounted instead."""
    for device in devices:
        if by_bind:
            _bind(root, device)
            continue
        parent_path, name = os.path.split(device.path)
        parent = beneath.make_directory(root, parent_path)
        try:
            _make(parent, name, device)
        except OSError as error:
            if error.errno != errno.EPERM:
                raise
            _bind(root, device)
        finally:
            os.close(parent)


def _make(parent: int, name: str, device: Device) -> None:
    try:
        os.mknod(name, device.mode, device.number, dir_fd=parent)
    except FileExistsError:
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if found.st_rdev == device.number and stat.S_IFMT(found.st_mode) == stat.S_IFMT(device.mode):
            return
        if device not in DEFAULT_DEVICES:
            raise RuntimeFailure(f"{device.path} exists, and is not the device asked for", step="devices") from None
        os.unlink(name, dir_fd=parent)
        os.mknod(name, device.mode, device.number, dir_fd=parent)
    if os.geteuid() != device.uid or device.gid:
        os.chown(name, device.uid, device.gid, dir_fd=parent, follow_symlinks=False)


def _bind(root: int, device: Device) -> None:
    source = mountcalls.clone_tree_at(device.path, recursive=False)
    target = beneath.make_file(root, device.path)
    mountcalls.attach(source, target, device.path)
    os.close(target)
    os.close(source)


def link_defaults(root: int) -> None:
    """/dev/fd, /dev/stdin, …, and /dev/ptmx of the container's own devpts; what exists already stays, but ptmx."""
    dev = beneath.try_open_beneath(root, "/dev", os.O_PATH | os.O_DIRECTORY)
    if dev is None:
        return
    try:
        with kernel.reporting("symlink", "/dev"):
            for path, target in _LINKS:
                _link(dev, os.path.basename(path), target)
            if os.path.exists("/proc/kcore"):
                _link(dev, "core", "/proc/kcore")
            # the host's ptmx would open terminals of the host's devpts
            if _exists(dev, "pts"):
                _link(dev, "ptmx", "pts/ptmx", replace=True)
    finally:
        os.close(dev)


def _exists(directory: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _link(directory: int, name: str, target: str, *, replace: bool = False) -> None:
    try:
        os.symlink(target, name, dir_fd=directory)
    except FileExistsError:
        if replace and not beneath.is_link_to(directory, name, target):
            os.unlink(name, dir_fd=directory)
            os.symlink(target, name, dir_fd=directory)
