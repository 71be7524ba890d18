"""v1 `cpuset`: which processors and memory nodes. A new group has none, and takes no process until it does.

Source: kernel cgroup-v1/cpusets.rst.
"""

from __future__ import annotations

import errno
import os

from services.executor.runtime.cgroups import files
from services.executor.runtime.errors import KernelFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from services.executor.runtime.cgroups.interface import Resources, Stats

NAME = "cpuset"
_FIELDS = (("cpus", "cpuset.cpus"), ("mems", "cpuset.mems"))
_FLAGS = (
    "cpu_exclusive",
    "mem_hardwall",
    "mem_exclusive",
    "memory_migrate",
    "memory_spread_page",
    "memory_spread_slab",
    "memory_pressure",
    "sched_load_balance",
    "sched_relax_domain_level",
)


def wanted(resources: Resources) -> str | None:
    cpu = files.section(resources, "cpu")
    return next((f"linux.resources.cpu.{key}" for key, _ in _FIELDS if cpu.get(key)), None)


def validate(directory: str, resources: Resources) -> None:
    """The kernel says, when it is written, whether the processors and nodes are there."""


def apply(directory: str, resources: Resources) -> None:
    cpu = files.section(resources, "cpu")
    for key, name in _FIELDS:
        if cpu.get(key):
            files.write(directory, name, cpu[key], field=f"linux.resources.cpu.{key}")


def make(root: str, path: str) -> list[str]:
    """Create `path` (absolute) below the hierarchy's `root`; answers what did not exist, outermost first.

    The parents that are created here get clone_children, with which the kernel itself copies the parent's processors
    and nodes into a child: two writes and two reads less for every container.
    """
    made: list[str] = []
    directory = root
    names = [name for name in path.split("/") if name]
    for depth, name in enumerate(names):
        directory = f"{directory}/{name}"
        try:
            os.mkdir(directory, 0o755)
            made.append(directory)
        except FileExistsError:
            if depth < len(names) - 1:
                continue
        except FileNotFoundError:
            # The empty parent was pruned between its creation and ours: go round again.
            return [*made, *make(root, path)]
        except OSError as error:
            raise KernelFailure("mkdir", directory, error.errno or 0, step="cgroups") from error
        inherit(directory)
        if depth < len(names) - 1:
            files.write(directory, "cgroup.clone_children", 1)
    return made


def inherit(directory: str) -> None:
    """Copy the parent's processors and nodes unless there are some."""
    for _, name in _FIELDS:
        if not files.read(directory, name):
            try:
                files.write_raw(directory, name, files.read(os.path.dirname(directory), name))
            except OSError as error:
                raise KernelFailure("write", f"{directory}/{name}", error.errno or errno.EIO, step="cgroups") from error


def stats(directory: str, into: Stats) -> None:
    numbers = {key: files.id_list(files.read_optional(directory, name)) for key, name in _FIELDS}
    flags = {key: files.read_int(directory, f"cpuset.{key}") for key in _FLAGS}
    into["cpuset"] = {**numbers, **flags}
