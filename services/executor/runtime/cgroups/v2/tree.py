"""The shape of the v2 hierarchy: making groups, and switching controllers on for them from the root down.

Source: kernel cgroup-v2.rst, "Top-down Constraint" and "No Internal Process Constraint".
"""

from __future__ import annotations

import errno

from services.executor.runtime.cgroups import directories, files
from services.executor.runtime.errors import KernelFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def available(directory: str) -> frozenset[str]:
    """Controllers that the parent of this group hands down to it."""
    return frozenset((files.read_optional(directory, "cgroup.controllers") or "").split())


def make(root: str, path: str, controllers: Iterable[str]) -> list[str]:
    """Create `path` (absolute), with `controllers` switched on for it in every group above, as far as there are any.

    Answers what did not exist, outermost first.

    Raises:
        KernelFailure: a group above has processes of its own (EBUSY), so nothing can be switched on there.
    """
    wanted = set(controllers)
    made: list[str] = []
    directory = root
    for name in (part for part in path.split("/") if part):
        enable(directory, wanted)
        made += directories.make(directory, "/" + name)
        directory = f"{directory}/{name}"
    return made


def enable(directory: str, controllers: set[str]) -> None:
    """Switch controllers on for the children of a group; those it does not have itself are left out."""
    missing = controllers - frozenset((files.read_optional(directory, "cgroup.subtree_control") or "").split())
    missing &= available(directory)
    if not missing:
        return
    try:
        files.write_raw(directory, "cgroup.subtree_control", " ".join(f"+{name}" for name in sorted(missing)))
    except OSError as error:
        # One that the kernel refuses (cpu, while there are real-time processes) must not take the others along.
        if error.errno == errno.EBUSY:
            raise KernelFailure("write", f"{directory}/cgroup.subtree_control", errno.EBUSY, step="cgroups") from error
        for name in sorted(missing):
            try:
                files.write_raw(directory, "cgroup.subtree_control", f"+{name}")
            except OSError:
                continue  # whoever needs it finds it missing, and says which field does
