"""What a container sees at /sys/fs/cgroup: its own groups, not the machine's.

Source: OCI runtime-spec 1.2, config-linux.md "Control groups"; cgroups(7), cgroup_namespaces(7).
"""

from __future__ import annotations

import os

from services.executor.runtime.cgroups.detect import parse
from services.executor.runtime.errors import KernelFailure
from services.executor.runtime.kernel import mountcalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from services.executor.runtime.spec.mountplan import Mount


def apply(mount: Mount, target: int, rootfs: str, groups: dict[str, str], *, own_namespace: bool) -> None:
    """Mount cgroup2, or a tmpfs with a directory per v1 hierarchy.

    Args:
        target: descriptor of the directory to mount on, closed here.
        rootfs: where it is.
        groups: directories of the container's control groups by controller.
        own_namespace: whether its cgroup namespace is not the runtime's.
    """
    # a /sys of the host's, mounted in the container before, shows the hierarchies too
    inside = rootfs.replace(" ", "\\040") + "/"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        v1, _ = parse("".join(line for line in lines if not line.split(" ", 5)[4].startswith(inside)))
    if mount.kind == "cgroup2" or not v1:
        _unified(mount, target, groups.get("unified"))
    else:
        _separate(mount, target, v1, own_namespace=own_namespace)


def _unified(mount: Mount, target: int, own: str | None) -> None:
    try:
        mountcalls.mount(
            "cgroup", f"/proc/self/fd/{target}", "cgroup2", mount.options.flags, mount.options.data or None
        )
    except KernelFailure:
        # no privilege over the cgroup namespace (a user namespace without one): show the directory itself
        if own is None:
            raise
        tree = mountcalls.clone_tree_at(own, recursive=True)
        added, removed = mount.options.attributes()
        mountcalls.set_attributes(tree, mount.destination, add=added, clear=removed)
        mountcalls.attach(tree, target, mount.destination)
        os.close(tree)
    os.close(target)


def _separate(mount: Mount, target: int, v1: dict[str, str], *, own_namespace: bool) -> None:
    attributes, _ = mount.options.attributes()
    tmpfs = mountcalls.new_filesystem(
        "tmpfs", [("source", "tmpfs"), ("mode", "755")], attributes & ~mountcalls.MOUNT_ATTR_RDONLY, mount.destination
    )
    mountcalls.attach(tmpfs, target, mount.destination)
    os.close(target)
    own = _own_groups()
    by_mount_point: dict[str, list[str]] = {}
    for controller, mount_point in v1.items():
        by_mount_point.setdefault(mount_point, []).append(controller)
    for mount_point, controllers in by_mount_point.items():
        name = os.path.basename(mount_point)
        os.mkdir(name, 0o755, dir_fd=tmpfs)
        directory = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=tmpfs)
        if own_namespace:
            data = ",".join("none," + item if item.startswith("name=") else item for item in controllers)
            mountcalls.mount("cgroup", f"/proc/self/fd/{directory}", "cgroup", mount.options.flags, data)
        else:
            tree = mountcalls.clone_tree_at(mount_point + own.get(controllers[0], "/"), recursive=False)
            mountcalls.set_attributes(tree, name, add=attributes)
            mountcalls.attach(tree, directory, name)
            os.close(tree)
        os.close(directory)
        for controller in controllers if len(controllers) > 1 else ():
            if controller != name:
                os.symlink(name, controller, dir_fd=tmpfs)
    if attributes & mountcalls.MOUNT_ATTR_RDONLY:
        mountcalls.set_attributes(tmpfs, mount.destination, add=mountcalls.MOUNT_ATTR_RDONLY)
    os.close(tmpfs)


def _own_groups() -> dict[str, str]:
    """Our group by v1 controller (proc_pid_cgroup(5))."""
    groups: dict[str, str] = {}
    with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            for controller in controllers.split(","):
                groups[controller] = path
    return groups
