"""v1 `blkio`: weights (where the BFQ scheduler is), rates in bytes and operations, what was read and written.

Source: kernel cgroup-v1/blkio-controller.rst, block/bfq-iosched.rst.
"""

from __future__ import annotations

import os

from services.executor.runtime.cgroups import files
from services.executor.runtime.errors import NotSupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from services.executor.runtime.cgroups.interface import Resources, Stats

NAME = "blkio"
_WEIGHTS = {"weight": ("blkio.weight", "blkio.bfq.weight"), "leafWeight": ("blkio.leaf_weight",)}
_DEVICE_WEIGHTS = {
    "weight": ("blkio.weight_device", "blkio.bfq.weight_device"),
    "leafWeight": ("blkio.leaf_weight_device",),
}
_THROTTLES = (
    ("throttleReadBpsDevice", "blkio.throttle.read_bps_device"),
    ("throttleWriteBpsDevice", "blkio.throttle.write_bps_device"),
    ("throttleReadIOPSDevice", "blkio.throttle.read_iops_device"),
    ("throttleWriteIOPSDevice", "blkio.throttle.write_iops_device"),
)
_FIELD = "linux.resources.blockIO"
# Key in the statistics, then where it is: with BFQ, else CFQ of old kernels; the first two also from the throttler.
_STATS = (
    ("ioServiceBytesRecursive", "io_service_bytes_recursive"),
    ("ioServicedRecursive", "io_serviced_recursive"),
    ("ioQueuedRecursive", "io_queued_recursive"),
    ("ioServiceTimeRecursive", "io_service_time_recursive"),
    ("ioWaitTimeRecursive", "io_wait_time_recursive"),
    ("ioMergedRecursive", "io_merged_recursive"),
    ("ioTimeRecursive", "time_recursive"),
    ("sectorsRecursive", "sectors_recursive"),
)


def wanted(resources: Resources) -> str | None:
    block = files.section(resources, "blockIO")
    keys = ("weight", "leafWeight", "weightDevice", *(key for key, _ in _THROTTLES))
    return next((f"{_FIELD}.{key}" for key in keys if block.get(key)), None)


def validate(directory: str, resources: Resources) -> None:
    block = files.section(resources, "blockIO")
    # The root has no weights: look at some group in it, and without any leave it to `apply`.
    with os.scandir(directory) as entries:
        group = next((entry.path for entry in entries if entry.is_dir(follow_symlinks=False)), None)
    if group is None:
        return
    for key, names in _WEIGHTS.items():
        if block.get(key):
            _existing(group, names, f"{_FIELD}.{key}")
    for index, entry in enumerate(block.get("weightDevice") or ()):
        for key, names in _DEVICE_WEIGHTS.items():
            if entry.get(key):
                _existing(group, names, f"{_FIELD}.weightDevice[{index}].{key}")


def apply(directory: str, resources: Resources) -> None:
    block = files.section(resources, "blockIO")
    for key, names in _WEIGHTS.items():
        if block.get(key):
            field = f"{_FIELD}.{key}"
            files.write(directory, _existing(directory, names, field), block[key], field=field)
    for index, entry in enumerate(block.get("weightDevice") or ()):
        for key, names in _DEVICE_WEIGHTS.items():
            if entry.get(key):
                field = f"{_FIELD}.weightDevice[{index}].{key}"
                value = f"{entry['major']}:{entry['minor']} {entry[key]}"
                files.write(directory, _existing(directory, names, field), value, field=field)
    for key, name in _THROTTLES:
        for index, entry in enumerate(block.get(key) or ()):
            value = f"{entry['major']}:{entry['minor']} {entry['rate']}"
            files.write(directory, name, value, field=f"{_FIELD}.{key}[{index}]")


def _existing(directory: str, names: tuple[str, ...], field: str) -> str:
    for name in names:
        if os.path.exists(f"{directory}/{name}"):
            return name
    raise NotSupported(field, f"this kernel's I/O scheduler has none of {', '.join(names)}")


def stats(directory: str, into: Stats) -> None:
    into["blkio"] = {key: _entries(directory, name) for key, name in _STATS}


def _entries(directory: str, name: str) -> list[dict[str, object]]:
    for prefix in ("blkio.bfq.", "blkio.", "blkio.throttle."):
        entries = parse(files.read_optional(directory, prefix + name))
        if entries:
            return entries
    return []


def parse(text: str | None) -> list[dict[str, object]]:
    """Lines of `major:minor Operation value`; the grand total at the end, which has no device, is left out."""
    entries: list[dict[str, object]] = []
    for line in (text or "").splitlines():
        parts = line.replace(":", " ").split()
        if len(parts) == 4 and parts[0].isdigit():
            entries.append({"major": int(parts[0]), "minor": int(parts[1]), "op": parts[2], "value": int(parts[3])})
        elif len(parts) == 3 and parts[0].isdigit():
            entries.append({"major": int(parts[0]), "minor": int(parts[1]), "op": "", "value": int(parts[2])})
    return entries
