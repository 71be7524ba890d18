"""The root filesystem: mounted in the container's own mount namespace, then made its root.

An overlay given by its layers is mounted here, by the container's init, so that no mount is ever visible to the host
and
a crash leaves nothing to clean up. Source: OCI runtime-spec 1.2, config.md "Root"; pivot_root(2).
"""

from __future__ import annotations

import errno
import os

from services.executor.runtime.errors import InvalidSpec, KernelFailure
from services.executor.runtime.kernel import calls as kernel
from services.executor.runtime.kernel import mountcalls
from services.executor.runtime.spec.mountoptions import PROPAGATION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_LONGEST_MOUNT_DATA = 4095


class Overlay:
    """An overlay to mount as rootfs: `lower` (topmost first), `upper` and `work` (both empty for a read-only one)."""

    __slots__ = ("lower", "upper", "work")

    def __init__(self, order: dict[str, Any]) -> None:
        self.lower: list[str] = list(order.get("lower") or [])
        self.upper: str = order.get("upper") or ""
        self.work: str = order.get("work") or ""
        if not self.lower or bool(self.upper) != bool(self.work):
            raise InvalidSpec("rootfs", "an overlay needs lower directories, and upper and work together")

    def mount(self) -> int:
        """A detached mount of it."""
        options: list[tuple[str, str | None]] = [("source", "overlay")]
        options += [("lowerdir+", path) for path in self.lower]
        if self.upper:
            options += [("upperdir", self.upper), ("workdir", self.work)]
        return mountcalls.new_filesystem("overlay", options, 0, "rootfs")

    def detached(self) -> int:
        """`mount` on any kernel, for a process that has threads and the host's mount namespace.

        An old kernel has such a mount only as a copy of one that is attached: in a namespace of a thread's own, which
        is gone with the thread.
        """
        try:
            return self.mount()
        except KernelFailure as failure:
            if failure.errno != errno.EINVAL:
                raise
        from services.executor.runtime.kernel.threads import in_a_thread

        return in_a_thread(self._copy_of_attached)

    def _copy_of_attached(self) -> int:
        kernel.unshare(kernel.CLONE_FS)
        kernel.unshare(kernel.CLONE_NEWNS)
        mountcalls.mount(None, "/", None, mountcalls.MS_PRIVATE | mountcalls.MS_REC)
        place = self.lower[0]
        self.mount_at(place)
        return mountcalls.clone_tree_at(place, recursive=False)

    def mount_at(self, target: str) -> None:
        """The same by mount(2), for kernels before 6.7; paths relative to the layers' common directory save room."""
        common = os.path.commonpath([os.path.dirname(path) for path in self.lower])
        data = "lowerdir=" + ":".join(os.path.relpath(path, common).replace(":", "\\:") for path in self.lower)
        if self.upper:
            data += f",upperdir={os.path.relpath(self.upper, common)},workdir={os.path.relpath(self.work, common)}"
        if len(data) > _LONGEST_MOUNT_DATA:
            raise InvalidSpec("rootfs.lower", f"{len(self.lower)} layers are too many for this kernel")
        before = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        os.chdir(common)
        try:
            mountcalls.mount("overlay", target, "overlay", 0, data)
        finally:
            os.fchdir(before)
            os.close(before)


def propagation(spec: dict[str, Any]) -> tuple[int, bool]:
    """(MS_*, recursive) of `linux.rootfsPropagation`; "rslave" when it is not given, as with runc."""
    word = (spec.get("linux") or {}).get("rootfsPropagation") or "rslave"
    try:
        return PROPAGATION[word]
    except KeyError:
        raise InvalidSpec("linux.rootfsPropagation", f'unknown propagation "{word}"') from None


def prepare(path: str, overlay: Overlay | None, spec: dict[str, Any], *, own_namespace: bool = True) -> int:
    """Make `path` a mount of its own, holding the rootfs, and return an O_PATH descriptor of it.

    First cuts the tie to the host, else what is mounted from here on would show there. In the host's own mount
    namespace (`own_namespace` false) it shows there, and stays, as with runc; no other mount is touched.
    """
    kind, recursive = propagation(spec)
    if own_namespace:
        mountcalls.mount(None, "/", None, kind | (mountcalls.MS_REC if recursive else 0))
        if kind == mountcalls.MS_SHARED or not recursive:
            mountcalls.mount(None, _mount_point_of(path), None, mountcalls.MS_PRIVATE)
    if overlay is not None:
        os.makedirs(path, exist_ok=True)
    with kernel.reporting("open rootfs", path):
        target = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    tree = _tree(path, overlay)
    if tree is None:
        os.close(target)
        return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    # pivot_root(2) refuses a shared root; a slave stays one where the host's mount is shared
    alone = mountcalls.MS_SLAVE if own_namespace and kind == mountcalls.MS_SLAVE else mountcalls.MS_PRIVATE
    mountcalls.set_attributes(tree, path, propagation=alone)
    mountcalls.attach(tree, target, path)
    if not own_namespace:
        # what is attached below a shared mount is shared again
        mountcalls.set_attributes(tree, path, propagation=mountcalls.MS_PRIVATE)
    os.close(target)
    return tree


def _tree(path: str, overlay: Overlay | None) -> int | None:
    """A detached mount of the rootfs, or None when an old kernel had it mounted in place at once."""
    if overlay is None:
        return mountcalls.clone_tree_at(path, recursive=True)
    try:
        return overlay.mount()
    except KernelFailure as failure:
        if failure.errno != errno.EINVAL:
            raise
        overlay.mount_at(path)
        return None


def _mount_point_of(path: str) -> str:
    """The mount point that `path` is on."""
    real = os.path.realpath(path)
    best = "/"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            point = unescaped(line.split(" ", 5)[4])
            if (real == point or real.startswith(point.rstrip("/") + "/")) and len(point) > len(best):
                best = point
    return best


def unescaped(field: str) -> str:
    """A path of mountinfo, whose blanks and backslashes are in octal; no codec, which could not be loaded any more."""
    for octal, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(octal, character)
    return field


def enter_shared(root: int, path: str, spec: dict[str, Any]) -> None:
    """Make the descriptor's directory "/" of this process alone: the mount namespace is the host's."""
    with kernel.reporting("chroot", path):
        os.fchdir(root)
        os.chroot(".")
    if (spec.get("root") or {}).get("readonly"):
        mountcalls.set_attributes(root, "/", add=mountcalls.MOUNT_ATTR_RDONLY)


def enter(root: int, *, pivot: bool, path: str) -> None:
    """Make the descriptor's directory "/" and forget everything that was reachable before."""
    with kernel.reporting("fchdir", path):
        os.fchdir(root)
    if not pivot:
        # --no-pivot, for a rootfs on the initial ramfs: move the mount over "/" instead. Weaker, and said so.
        _hide_kernel_filesystems(path)
        mountcalls.mount(None, "/", None, mountcalls.MS_PRIVATE)
        mountcalls.mount(".", "/", None, mountcalls.MS_MOVE)
        os.chroot(".")
        os.chdir("/")
        return
    old = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    mountcalls.pivot_root(".", ".")
    # "." is now the new root with the old one stacked on it; unmounting the old one must not reach the host
    os.fchdir(old)
    mountcalls.mount(None, ".", None, mountcalls.MS_SLAVE | mountcalls.MS_REC)
    mountcalls.umount(".")
    os.close(old)
    os.chdir("/")


def _hide_kernel_filesystems(rootfs: str) -> None:
    """Take away the host's proc and sysfs, which stay below a root that was not pivoted.

    Where they are seen in full the kernel lets a user namespace mount new ones, without what was masked here.
    Source: user_namespaces(7), of proc and sysfs that must be visible already.
    """
    inside = os.path.realpath(rootfs).rstrip("/") + "/"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        entries = [line.split(" ") for line in lines]
    points = [unescaped(entry[4]) for entry in entries if entry[entry.index("-") + 1] in {"proc", "sysfs"}]
    for point in reversed(points):
        if point.startswith(inside):
            continue
        mountcalls.mount(None, point, None, mountcalls.MS_SLAVE | mountcalls.MS_REC)
        try:
            mountcalls.umount(point)
        except KernelFailure as failure:
            if failure.errno not in {errno.EINVAL, errno.EPERM}:
                raise
            # locked together by the namespace it came from: covered instead
            mountcalls.mount("tmpfs", point, "tmpfs", mountcalls.MS_RDONLY)


def finish(spec: dict[str, Any]) -> None:
    """Propagation and read-only bit of the container's "/", as the last change to its mounts."""
    kind, recursive = propagation(spec)
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    if kind in {mountcalls.MS_SHARED, mountcalls.MS_UNBINDABLE}:
        mountcalls.set_attributes(root, "/", propagation=kind, recursive=recursive)
    if (spec.get("root") or {}).get("readonly"):
        mountcalls.set_attributes(root, "/", add=mountcalls.MOUNT_ATTR_RDONLY)
    os.close(root)
