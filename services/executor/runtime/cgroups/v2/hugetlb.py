"""v2 `hugetlb`: bytes of huge pages, by page size.

Source: kernel cgroup-v2.rst#hugetlb.
"""

from __future__ import annotations

import os

from services.executor.runtime.cgroups import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from services.executor.runtime.cgroups.interface import Resources, Stats

NAME = "hugetlb"


def wanted(resources: Resources) -> str | None:
    return "linux.resources.hugepageLimits" if resources.get("hugepageLimits") else None


def validate(directory: str, resources: Resources) -> None:
    """Page sizes the kernel does not have are refused when written."""


def apply(directory: str, resources: Resources) -> None:
    for index, entry in enumerate(resources.get("hugepageLimits") or ()):
        field = f"linux.resources.hugepageLimits[{index}]"
        prefix = f"hugetlb.{entry['pageSize']}."
        files.write(directory, prefix + "max", entry["limit"], field=field)
        if os.path.exists(f"{directory}/{prefix}rsvd.max"):
            files.write(directory, prefix + "rsvd.max", entry["limit"], field=field)


def stats(directory: str, into: Stats) -> None:
    start, end = "hugetlb.", ".current"
    names = [name for name in os.listdir(directory) if name.startswith(start) and name.endswith(end)]
    sizes = {name[len(start) : -len(end)] for name in names}
    into["hugetlb"] = {size: _usage(directory, size, sizes) for size in sizes if not size.endswith(".rsvd")}


def _usage(directory: str, size: str, sizes: set[str]) -> dict[str, int]:
    prefix = f"hugetlb.{size}.rsvd." if f"{size}.rsvd" in sizes else f"hugetlb.{size}."
    events = files.flat(files.read_optional(directory, f"hugetlb.{size}.events"))
    return {"usage": files.read_int(directory, prefix + "current"), "max": 0, "failcnt": events.get("max", 0)}
