"""v1 `net_cls`: the class that outgoing packets carry.

Source: kernel cgroup-v1/net_cls.rst.
"""

from __future__ import annotations

from services.executor.runtime.cgroups import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from services.executor.runtime.cgroups.interface import Resources, Stats

NAME = "net_cls"


def wanted(resources: Resources) -> str | None:
    return "linux.resources.network.classID" if files.section(resources, "network").get("classID") else None


def validate(directory: str, resources: Resources) -> None:
    """Any 32-bit number is a class."""


def apply(directory: str, resources: Resources) -> None:
    class_id = files.section(resources, "network").get("classID")
    if class_id:
        files.write(directory, "net_cls.classid", class_id, field="linux.resources.network.classID")


def stats(directory: str, into: Stats) -> None:
    """There are none."""
