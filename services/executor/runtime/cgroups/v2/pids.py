"""v2 `pids`: how many processes and threads.

Source: kernel cgroup-v2.rst#pid.
"""

from __future__ import annotations

from services.executor.runtime.cgroups import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from services.executor.runtime.cgroups.interface import Resources, Stats

NAME = "pids"


def wanted(resources: Resources) -> str | None:
    return "linux.resources.pids.limit" if files.section(resources, "pids").get("limit") else None


def validate(directory: str, resources: Resources) -> None:
    """Any number will do."""


def apply(directory: str, resources: Resources) -> None:
    limit = files.section(resources, "pids").get("limit")
    if limit:
        files.write(directory, "pids.max", "max" if limit < 0 else limit, field="linux.resources.pids.limit")


def stats(directory: str, into: Stats) -> None:
    limit = files.read_int(directory, "pids.max")
    # As runc has it: no limit is 0, so that it can be left out of JSON.
    into["pids"] = {
        "current": files.read_int(directory, "pids.current"),
        "limit": 0 if limit == files.UNLIMITED else limit,
    }
