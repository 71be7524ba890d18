"""v1 `hugetlb`: bytes of huge pages, by page size.

Source: kernel cgroup-v1/hugetlb.rst.
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
        files.write(directory, prefix + "limit_in_bytes", entry["limit"], field=field)
        # Reserved pages have a limit of their own since Linux 5.7: without it a reservation could pass the first one.
        if os.path.exists(f"{directory}/{prefix}rsvd.limit_in_bytes"):
            files.write(directory, prefix + "rsvd.limit_in_bytes", entry["limit"], field=field)


def stats(directory: str, into: Stats) -> None:
    end = ".limit_in_bytes"
    sizes = {name[len("hugetlb.") : -len(end)] for name in os.listdir(directory) if name.endswith(end)}
    into["hugetlb"] = {size: _usage(directory, size, sizes) for size in sizes if not size.endswith(".rsvd")}


def _usage(directory: str, size: str, sizes: set[str]) -> dict[str, int]:
    prefix = f"hugetlb.{size}.rsvd." if f"{size}.rsvd" in sizes else f"hugetlb.{size}."
    return {
        "usage": files.read_int(directory, prefix + "usage_in_bytes"),
        "max": files.read_int(directory, prefix + "max_usage_in_bytes"),
        "failcnt": files.read_int(directory, prefix + "failcnt"),
    }
