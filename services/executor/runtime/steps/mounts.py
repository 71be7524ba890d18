"""The mounts of a plan (`spec/mountplan.py`), made beneath the rootfs, by descriptors.

Source: OCI runtime-spec 1.2, config.md "Mounts".
"""

from __future__ import annotations

import errno
import os
import stat

from services.executor.runtime.errors import InvalidSpec, KernelFailure, RuntimeFailure
from services.executor.runtime.kernel import beneath, mountcalls
from services.executor.runtime.kernel import calls as kernel
from services.executor.runtime.spec import idmap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from services.executor.runtime.spec.mountplan import Mount
    from services.executor.runtime.steps.namespaces import Namespaces

#: files of /proc that something may be mounted over: made-up numbers for the container (lxcfs), and no way out
_MOUNTABLE_IN_PROC = frozenset(
    {
        "/proc/cpuinfo",
        "/proc/diskstats",
        "/proc/loadavg",
        "/proc/meminfo",
        "/proc/net/dev",
        "/proc/slabinfo",
        "/proc/stat",
        "/proc/swaps",
        "/proc/sys/kernel/ns_last_pid",
        "/proc/uptime",
    }
)


#: filesystems whose labels are the policy's, or are set on their files
_UNLABELLED = frozenset({"proc", "sysfs", "mqueue"})


def labelled(data: str, label: str) -> str:
    """Mount options with an SELinux context for all files; commas are part of contexts, so it is quoted."""
    if not label:
        return data
    return ",".join(filter(None, (data, f'context="{label}"')))


def open_sources(mounts: list[Mount], names: Namespaces) -> set[int]:
    """Take the sources of bind mounts while we may still reach and map them; returns the descriptors.

    Needed before entering a user namespace, from which neither may be possible. The mounts hold them afterwards.
    """
    for mount in mounts:
        if mount.kind != "bind":
            continue
        if mount.options.copy_link and os.path.islink(mount.source):
            continue
        mapped = mount.mappings is not None or mount.options.idmap is not None
        if not mapped and not names.has("user"):
            continue
        try:
            tree = _clone_source(mount)
        except KernelFailure as failure:
            if failure.errno != errno.EPERM or mapped:
                raise
            continue  # an unprivileged user's, who reaches as much from inside
        if mapped:
            _map_ids(tree, mount, names)
        mount.tree = tree
    return {mount.tree for mount in mounts if mount.tree is not None}


def _clone_source(mount: Mount) -> int:
    recursive = bool(mount.options.flags & mountcalls.MS_REC)
    return mountcalls.clone_tree_at(mount.source, recursive=recursive, follow=mount.options.follow_source)


def _map_ids(tree: int, mount: Mount, names: Namespaces) -> None:
    uids, gids = mount.mappings or (names.uid_maps, names.gid_maps)
    if not uids:
        raise InvalidSpec(f"{mount.field}.options", "idmap needs mappings or a new user namespace")
    userns = idmap.user_namespace(uids, gids)
    try:
        mountcalls.set_attributes(
            tree,
            mount.destination,
            add=mountcalls.MOUNT_ATTR_IDMAP,
            userns_fd=userns,
            recursive=mount.options.idmap == "ridmap",
        )
    finally:
        os.close(userns)


class Mounter:
    """Makes mounts beneath one rootfs, in the current mount namespace.

    Attributes:
        root: O_PATH descriptor of the rootfs, which is a mount of its own.
        path: where it is now, without symbolic links.
        fallback: flags of a bind mount that are locked are kept; false makes them an error.
        label: SELinux context of the files of new filesystems (`linux.mountLabel`); "" for none.
    """

    def __init__(
        self, root: int, *, cgroup_paths: dict[str, str], cgroup_namespace: bool, label: str = "", fallback: bool = True
    ) -> None:
        self.root = root
        self.fallback = fallback
        self.label = label
        self.path = beneath.location(root)
        self.cgroup_paths = cgroup_paths
        self.cgroup_namespace = cgroup_namespace
        self._read_only_later: list[str] = []

    def apply(self, mounts: list[Mount]) -> None:
        """Make them all, in order."""
        for mount in mounts:
            try:
                self._one(mount)
            except RuntimeFailure as failure:
                failure.field = failure.field or mount.field
                failure.message = (
                    f'error mounting "{mount.source}" to rootfs at "{mount.destination}": {failure.message}'
                )
                failure.args = (failure.message,)
                raise

    def seal(self) -> None:
        """Turn read-only what had to be written to first (device nodes in /dev, copied-up files)."""
        for destination in self._read_only_later:
            fd = beneath.open_beneath(self.root, destination)
            mountcalls.set_attributes(fd, destination, add=mountcalls.MOUNT_ATTR_RDONLY)
            os.close(fd)

    def _step_up(self, mount: Mount) -> None:
        """What was mounted on "/" is the rootfs from now on; our descriptor still refers to what it covers."""
        if mount.destination != "/":
            return
        covered, self.root = self.root, os.open(self.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        os.close(covered)

    def _one(self, mount: Mount) -> None:
        if mount.options.flags & mountcalls.MS_REMOUNT:
            self._remount(mount)
        elif mount.kind == "bind":
            self._bind(mount)
        elif mount.kind in {"cgroup", "cgroup2"}:
            from services.executor.runtime.steps import cgroupmount

            cgroupmount.apply(
                mount, self._directory(mount), self.path, self.cgroup_paths, own_namespace=self.cgroup_namespace
            )
            self._adjust_placed(mount)
        else:
            self._filesystem(mount)
            self._adjust_placed(mount)

    def _directory(self, mount: Mount) -> int:
        """The mount's target, made when it is missing."""
        if mount.kind in {"proc", "sysfs"}:
            return self._plain_directory(mount.destination)
        target = beneath.make_directory(self.root, mount.destination)
        self._refuse_in_proc(target, mount)
        return target

    def _plain_directory(self, destination: str) -> int:
        """A target with no symbolic link on the way: everything later trusts /proc and /sys to be where they belong."""
        os.close(beneath.make_directory(self.root, destination))
        try:
            return beneath.open_beneath(
                self.root, destination, os.O_PATH | os.O_DIRECTORY, resolve=kernel.RESOLVE_NO_SYMLINKS
            )
        except KernelFailure as failure:
            if failure.errno == errno.ELOOP:
                raise RuntimeFailure(f"{destination} must be mounted on ordinary directory", step="mounts") from None
            raise

    def _refuse_in_proc(self, target: int, mount: Mount) -> None:
        """Nothing may hide or fake files of /proc: what later reads them (LSM labels, …) must reach the kernel.

        A bind mount of a procfs on /proc itself is allowed; so are a few files with numbers.
        """
        where = beneath.location(target)
        inside = where[len(self.path.rstrip("/")) :] if where.startswith(self.path) else where
        if inside != "/proc" and not inside.startswith("/proc/"):
            return
        if inside in _MOUNTABLE_IN_PROC:
            return
        if inside == "/proc" and mount.kind == "bind" and os.path.exists(os.path.join(mount.source, "self/ns")):
            return
        raise RuntimeFailure(f'"{where}" cannot be mounted because it is inside /proc', step="mounts")

    def _filesystem(self, mount: Mount) -> None:
        options = mount.options
        inherits_mode = mount.kind == "tmpfs" and "mode=" not in options.data and self._exists(mount.destination)
        target = self._directory(mount)
        flags = options.flags
        later = flags & mountcalls.MS_RDONLY and mount.kind == "tmpfs"
        if later:
            flags &= ~mountcalls.MS_RDONLY
            self._read_only_later.append(mount.destination)
        data = options.data
        if inherits_mode:
            # as for runc, the directory that is covered decides; where there is none, the kernel's default of 1777
            data = ",".join(filter(None, (data, f"mode={stat.S_IMODE(os.stat(f'/proc/self/fd/{target}').st_mode):o}")))
        if mount.kind not in _UNLABELLED:
            data = labelled(data, self.label)
        mountcalls.mount(mount.source or mount.kind, f"/proc/self/fd/{target}", mount.kind, flags, data or None)
        self._step_up(mount)
        if mount.kind == "mqueue" and self.label:
            self._label_files(mount.destination)
        if options.copy_up:
            self._copy_up(target, mount.destination)
        os.close(target)

    def _label_files(self, destination: str) -> None:
        """For a filesystem that takes no label as an option."""
        with kernel.reporting("setxattr security.selinux", destination):
            fd = beneath.open_beneath(self.root, destination, os.O_RDONLY | os.O_DIRECTORY)
            os.setxattr(fd, "security.selinux", self.label.encode() + b"\0")
            os.close(fd)

    def _exists(self, destination: str) -> bool:
        fd = beneath.try_open_beneath(self.root, destination)
        if fd is None:
            return False
        os.close(fd)
        return True

    def _copy_up(self, covered: int, destination: str) -> None:
        """Fill a fresh tmpfs with what it covers; `covered` still refers to the directory below."""
        from services.executor.runtime.steps import copytree

        fresh = beneath.open_beneath(self.root, destination, os.O_RDONLY | os.O_DIRECTORY)
        below = os.open(f"/proc/self/fd/{covered}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        copytree.copy(below, fresh)
        os.close(below)
        os.close(fresh)

    def _adjust_placed(self, mount: Mount) -> None:
        """Propagation and recursive attributes of a mount that is in place."""
        options = mount.options
        if not options.propagation and options.recursive == (0, 0):
            return
        fd = beneath.open_beneath(self.root, mount.destination)
        self._adjust(fd, mount)
        os.close(fd)

    @staticmethod
    def _adjust(fd: int, mount: Mount) -> None:
        for propagation, recursive in mount.options.propagation:
            mountcalls.set_attributes(fd, mount.destination, propagation=propagation, recursive=recursive)
        added, removed = mount.options.recursive
        if added or removed:
            mountcalls.set_attributes(fd, mount.destination, add=added, clear=removed, recursive=True)

    def _bind(self, mount: Mount) -> None:
        if mount.options.copy_link and os.path.islink(mount.source):
            self._copy_link(mount)
            return
        source = mount.tree if mount.tree is not None else _clone_source(mount)
        try:
            directory = stat.S_ISDIR(os.fstat(source).st_mode)
            if not mount.options.follow_destination:
                target = beneath.make_itself(self.root, mount.destination, directory=directory)
            elif directory:
                target = beneath.make_directory(self.root, mount.destination)
            else:
                target = beneath.make_file(self.root, mount.destination)
            self._refuse_in_proc(target, mount)
            self._set_flags(source, mount)
            mountcalls.attach(source, target, mount.destination)
            os.close(target)
            self._step_up(mount)
            # after attaching: a mount that is attached to a shared parent would become shared again
            self._adjust(source, mount)
        finally:
            os.close(source)

    def _copy_link(self, mount: Mount) -> None:
        """The same symbolic link as the source, which has nothing to mount when it dangles."""
        parent_path, name = os.path.split(mount.destination)
        target = os.readlink(mount.source)
        parent = beneath.make_directory(self.root, parent_path)
        self._refuse_in_proc(parent, mount)
        try:
            os.symlink(target, name, dir_fd=parent)
        except FileExistsError:
            if not beneath.is_link_to(parent, name, target):
                raise RuntimeFailure(f"{mount.destination} exists, and is no such link", step="mounts") from None
        finally:
            os.close(parent)

    def _set_flags(self, tree: int, mount: Mount) -> None:
        """The flags asked for. Those that a user namespace may not take off stay, unless that is to be an error."""
        added, removed = mount.options.attributes()
        if not added and not removed:
            return
        try:
            mountcalls.set_attributes(tree, mount.destination, add=added, clear=removed)
        except KernelFailure as failure:
            if failure.errno != errno.EPERM or not self.fallback:
                raise
            mountcalls.set_attributes(tree, mount.destination, add=added)

    def _remount(self, mount: Mount) -> None:
        target = beneath.open_beneath(self.root, mount.destination)
        flags = mount.options.flags
        mountcalls.mount(mount.source or None, f"/proc/self/fd/{target}", None, flags, mount.options.data or None)
        os.close(target)
        self._adjust_placed(mount)
