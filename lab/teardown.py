"""Removes all that a lab has made, from what is there, whatever its record says."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

from lab.nodes.cgroups import Cgroup, Hierarchies
from lab.nodes.namespaces import Namespaces
from lab.places import Places
from services.executor.runtime.errors import KernelFailure
from services.executor.runtime.kernel.mountcalls import umount


def tear_down(places: Places) -> None:
    """End processes, let go of mounts, namespaces (and with them devices and rules), control groups and files."""
    hierarchies = Hierarchies()
    root = Cgroup(hierarchies, places.cgroup)
    root.kill()
    Namespaces(places.namespaces).close()
    _unmount_below(places.base)
    root.remove()
    for directory in Cgroup(hierarchies, places.cgroup.split("/", maxsplit=1)[0]).directories:
        with suppress(OSError):  # another lab's groups are in it
            directory.rmdir()
    shutil.rmtree(places.base)
    with suppress(OSError):  # another lab is in it
        places.root.rmdir()


def _unmount_below(base: Path) -> None:
    for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
        target = line.split()[4].encode().decode("unicode_escape")
        if Path(target).is_relative_to(base):
            with suppress(KernelFailure):
                umount(target)
