"""What a node's first process does to make its namespaces look like a machine of its own. Runs in the child.

The file system is this machine's, without what is mounted there for others: /run, /sys and the control groups are the
node's, /var/lib/davit and /etc/davit are the lab's directories for it.

Source: mount_namespaces(7), cgroup_namespaces(7).
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from lab.nodes.cgroups import ENGINE, Cgroup, Hierarchies
from services.executor.runtime.errors import KernelFailure
from services.executor.runtime.kernel import calls
from services.executor.runtime.kernel.mountcalls import (
    MNT_DETACH,
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_REC,
    mount,
    umount,
)  # fmt: skip

NAMESPACES = calls.CLONE_NEWNS | calls.CLONE_NEWUTS | calls.CLONE_NEWCGROUP | calls.CLONE_NEWNET
_KEPT = ("/", "/proc", "/dev", "/tmp")
_QUIET = MS_NOSUID | MS_NODEV | MS_NOEXEC


@dataclass(frozen=True)
class Machine:
    """One node as its first process needs to know it.

    Attributes:
        directories: What stands where in the node: its path there -> the lab's directory.
        hosts: Content of its ``/etc/hosts``.
    """

    hostname: str
    cgroup: Cgroup
    directories: dict[str, Path]
    hosts: Path


def leave_home(machine: Machine) -> None:
    """Move the calling process into new namespaces and into the node's control group."""
    machine.cgroup.join()
    calls.unshare(NAMESPACES)
    machine.cgroup.child(ENGINE).join()
    calls.sethostname(machine.hostname)


def furnish(machine: Machine, hierarchies: Hierarchies) -> None:
    """Make the mount namespace the node's own."""
    mount(None, "/", None, MS_REC | MS_PRIVATE)
    sources = {target: os.open(path, os.O_PATH | os.O_CLOEXEC) for target, path in machine.directories.items()}
    hosts = os.open(machine.hosts, os.O_PATH | os.O_CLOEXEC)
    _leave_what_is_others()
    mount("sysfs", "/sys", "sysfs", _QUIET)
    _mount_cgroups(hierarchies)
    mount("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    for target, descriptor in sources.items():
        Path(target).mkdir(parents=True, exist_ok=True)
        mount(f"/proc/self/fd/{descriptor}", target, None, MS_BIND)
        os.close(descriptor)
    with contextlib.suppress(KernelFailure, FileNotFoundError):  # a machine without the file needs none
        mount(f"/proc/self/fd/{hosts}", "/etc/hosts", None, MS_BIND)
    os.close(hosts)


def _leave_what_is_others() -> None:
    """Unmount what this machine mounts for others: their containers, their namespaces, /run, /sys.

    A copy of it in here would keep it busy as long as the node lives.
    """
    known = {line.split()[-1] for line in Path("/proc/filesystems").read_text().splitlines()
             if not line.startswith("nodev")}  # fmt: skip
    for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
        fields, _, rest = line.partition(" - ")
        target = fields.split()[4].encode().decode("unicode_escape")
        root_of_others = target.startswith(("/run/", "/sys/", "/var/run/"))
        inside_kept = any(target == kept or (kept != "/" and target.startswith(kept + "/")) for kept in _KEPT)
        on_disk = rest.split()[0] in known and not root_of_others and " /proc/" not in fields
        if not inside_kept and not on_disk:
            with contextlib.suppress(KernelFailure):
                umount(target, MNT_DETACH)


def _mount_cgroups(hierarchies: Hierarchies) -> None:
    """The hierarchies that this machine has, each from the node's own group on."""
    base = "/sys/fs/cgroup"
    if not hierarchies.v1:
        mount("cgroup2", base, "cgroup2", _QUIET)
        return
    mount("tmpfs", base, "tmpfs", _QUIET, "mode=755")
    by_mount: dict[str, list[str]] = {}
    for controller, point in hierarchies.v1.items():
        by_mount.setdefault(point, []).append(controller)
    for point, controllers in by_mount.items():
        target = Path(base, Path(point).name)
        target.mkdir()
        options = ["none", *controllers] if controllers[0].startswith("name=") else controllers
        mount("cgroup", str(target), "cgroup", _QUIET, ",".join(options))
        for controller in controllers:
            alias = Path(base, controller.removeprefix("name="))
            if not alias.exists():
                alias.symlink_to(target.name)
    if hierarchies.v2:
        Path(base, "unified").mkdir(exist_ok=True)
        mount("cgroup2", f"{base}/unified", "cgroup2", _QUIET)
