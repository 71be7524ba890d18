"""What kinds of objects take of the disk, in sums. Source: Docker Engine API 1.56, SystemDataUsage."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from services.api.answers.system import DiskUsage
    from services.api.versions import Version

# The versions that have sums, and no lists without being asked for them.
WITH_SUMS, WITHOUT_LISTS = (1, 52), (1, 53)
RUNNING = ("running", "paused", "restarting")


def usage(found: dict[str, Any], version: Version, *, verbose: bool) -> DiskUsage:
    """The answer of /system/df.

    Args:
        found: `LayersSize`, `Images`, `Containers`, `Volumes`, `BuildCache`, as far as they were asked for.
        verbose: With the objects themselves, where there are sums.
    """
    result: Any = {}
    if version < WITH_SUMS or (version < WITHOUT_LISTS and not verbose):
        result = {"LayersSize": 0, "Images": None, "Containers": None, "Volumes": None, "BuildCache": None} | found
    if version >= WITH_SUMS:
        for kind, (name, sums) in SUMS.items():
            if kind in found:
                result[name] = sums(found) | ({"Items": found[kind]} if verbose else {})
    if version < (1, 42):
        result["BuilderSize"] = sum(entry["Size"] for entry in result["BuildCache"] or [])
    answer: DiskUsage = result
    return answer


def _sums(items: list[Any], active: list[Any], total: int, reclaimable: int) -> dict[str, int]:
    counts = {"ActiveCount": len(active), "TotalCount": len(items)}
    return counts | {"Reclaimable": max(reclaimable, 0), "TotalSize": total}


def _images(found: dict[str, Any]) -> dict[str, int]:
    images, total = found["Images"], found["LayersSize"]
    active = [image for image in images if image["Containers"] > 0]
    # What others share goes only with the last of them.
    used = sum(image["Size"] - max(image["SharedSize"], 0) for image in active)
    return _sums(images, active, total, total - used)


def _containers(found: dict[str, Any]) -> dict[str, int]:
    containers = found["Containers"]
    active = [container for container in containers if container["State"] in RUNNING]
    total, used = (sum(one.get("SizeRw", 0) for one in some) for some in (containers, active))
    return _sums(containers, active, total, total - used)


def _volumes(found: dict[str, Any]) -> dict[str, int]:
    volumes = found["Volumes"]
    active = [volume for volume in volumes if volume["UsageData"]["RefCount"] > 0]
    total, used = (sum(max(one["UsageData"]["Size"], 0) for one in some) for some in (volumes, active))
    return _sums(volumes, active, total, total - used)


def _build_cache(found: dict[str, Any]) -> dict[str, int]:
    records = found["BuildCache"]
    active = [record for record in records if record["InUse"]]
    own = [record for record in records if not record["Shared"]]  # what is shared is an image's
    total, used = (sum(one["Size"] for one in own if one["InUse"] or some) for some in (True, False))
    return _sums(records, active, total, total - used)


SUMS: dict[str, tuple[str, Callable[[dict[str, Any]], dict[str, int]]]] = {
    "Images": ("ImageUsage", _images),
    "Containers": ("ContainerUsage", _containers),
    "Volumes": ("VolumeUsage", _volumes),
    "BuildCache": ("BuildCacheUsage", _build_cache),
}
