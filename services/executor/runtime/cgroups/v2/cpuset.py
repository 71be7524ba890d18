"""v2 `cpuset`: which processors and memory nodes; empty means the parent's.

Source: kernel cgroup-v2.rst#cpuset.
"""

from __future__ import annotations

from services.executor.runtime.cgroups import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from services.executor.runtime.cgroups.interface import Resources, Stats

NAME = "cpuset"
_KEYS = ("cpus", "mems")


def wanted(resources: Resources) -> str | None:
    cpu = files.section(resources, "cpu")
    return next((f"linux.resources.cpu.{key}" for key in _KEYS if cpu.get(key)), None)


def validate(directory: str, resources: Resources) -> None:
    """The kernel says, when it is written, whether the lists are well formed."""


def apply(directory: str, resources: Resources) -> None:
    cpu = files.section(resources, "cpu")
    for key in _KEYS:
        if cpu.get(key):
            files.write(directory, f"cpuset.{key}", cpu[key], field=f"linux.resources.cpu.{key}")


def stats(directory: str, into: Stats) -> None:
    into["cpuset"] = {key: files.id_list(files.read_optional(directory, f"cpuset.{key}.effective")) for key in _KEYS}
