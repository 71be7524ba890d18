"""v2 `io`: weights, rates in bytes and operations, what was read and written; and pressure.

Source: kernel cgroup-v2.rst#io, block/bfq-iosched.rst; the conversion of weights is runc's.
"""

from __future__ import annotations

import os

from services.executor.runtime.cgroups import files
from services.executor.runtime.cgroups.v2 import pressure
from services.executor.runtime.errors import NotSupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from services.executor.runtime.cgroups.interface import Resources, Stats

NAME = "io"
_FIELD = "linux.resources.blockIO"
_THROTTLES = (
    ("throttleReadBpsDevice", "rbps"),
    ("throttleWriteBpsDevice", "wbps"),
    ("throttleReadIOPSDevice", "riops"),
    ("throttleWriteIOPSDevice", "wiops"),
)
# io.stat's keys: the list in the statistics and the operation in it
_STATS = (
    ("rbytes", "ioServiceBytesRecursive", "Read"),
    ("wbytes", "ioServiceBytesRecursive", "Write"),
    ("dbytes", "ioServiceBytesRecursive", "Discard"),
    ("rios", "ioServicedRecursive", "Read"),
    ("wios", "ioServicedRecursive", "Write"),
    ("dios", "ioServicedRecursive", "Discard"),
)


def wanted(resources: Resources) -> str | None:
    block = files.section(resources, "blockIO")
    keys = ("weight", "leafWeight", "weightDevice", *(key for key, _ in _THROTTLES))
    return next((f"{_FIELD}.{key}" for key in keys if block.get(key)), None)


def validate(directory: str, resources: Resources) -> None:
    block = files.section(resources, "blockIO")
    if block.get("leafWeight"):
        raise NotSupported(f"{_FIELD}.leafWeight", "cgroup v2 has no leaf weight")
    for index, entry in enumerate(block.get("weightDevice") or ()):
        if entry.get("leafWeight"):
            raise NotSupported(f"{_FIELD}.weightDevice[{index}].leafWeight", "cgroup v2 has no leaf weight")


def apply(directory: str, resources: Resources) -> None:
    block = files.section(resources, "blockIO")
    weights = [("default", block["weight"], f"{_FIELD}.weight")] if block.get("weight") else []
    for index, entry in enumerate(block.get("weightDevice") or ()):
        if entry.get("weight"):
            device = f"{entry['major']}:{entry['minor']}"
            weights.append((device, entry["weight"], f"{_FIELD}.weightDevice[{index}].weight"))
    for device, value, field in weights:
        _write_weight(directory, device, value, field)
    for key, name in _THROTTLES:
        for index, entry in enumerate(block.get(key) or ()):
            # 0 takes the limit away on v1.
            value = f"{entry['major']}:{entry['minor']} {name}={entry['rate'] or 'max'}"
            files.write(directory, "io.max", value, field=f"{_FIELD}.{key}[{index}]")


def _write_weight(directory: str, device: str, value: int, field: str) -> None:
    """BFQ's file takes OCI's range as it is; iocost's has one of its own."""
    if os.path.exists(f"{directory}/io.bfq.weight"):
        files.write(directory, "io.bfq.weight", f"{device} {value}", field=field)
    else:
        files.write(directory, "io.weight", f"{device} {weight(value)}", field=field)


def weight(value: int) -> int:
    """OCI's 10…1000 on v2's 1…10000, linearly."""
    return 1 + (value - 10) * 9999 // 990


def stats(directory: str, into: Stats) -> None:
    block: dict[str, object] = {"ioServiceBytesRecursive": [], "ioServicedRecursive": []}
    for line in (files.read_optional(directory, "io.stat") or "").splitlines():
        device, values = files.nested(line)
        major, separator, minor = device.partition(":")
        if not separator:
            continue
        for key, name, operation in _STATS:
            if key in values:
                entries = block[name]
                assert isinstance(entries, list)
                entries.append({"major": int(major), "minor": int(minor), "op": operation, "value": int(values[key])})
    pressure.add(directory, "io.pressure", block)
    into["blkio"] = block
