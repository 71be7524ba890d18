"""Devices and limits of a container, from Docker's words to OCI's.

Source: OCI runtime-spec 1.2, config-linux.md, "Devices" and "Control groups"; Docker Engine API 1.50, Resources.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from typing import Any

from services.executor.runtime.spec import defaults
from shared.contracts.docker import DeviceMapping, HostConfig
from shared.errors import InvalidArgument

CPU_PERIOD_US = 100_000


def _device(path: str, in_container: str) -> dict[str, Any] | None:
    info = os.stat(path)
    kind = "c" if stat.S_ISCHR(info.st_mode) else "b" if stat.S_ISBLK(info.st_mode) else None
    if kind is None:
        return None
    return {
        "path": in_container,
        "type": kind,
        "major": os.major(info.st_rdev),
        "minor": os.minor(info.st_rdev),
        "fileMode": stat.S_IMODE(info.st_mode),
        "uid": info.st_uid,
        "gid": info.st_gid,
    }


def devices_below(directory: str, in_container: str) -> list[dict[str, Any]]:
    found = []
    for root, folders, files in os.walk(directory):
        if root == "/dev":
            folders[:] = [name for name in folders if name not in ("pts", "shm", "fd", "mqueue", ".udev")]
        for name in files:
            path = os.path.join(root, name)
            if path in ("/dev/console",) or os.path.islink(path):
                continue
            device = _device(path, in_container + path[len(directory) :])
            if device is not None:
                found.append(device)
    return found


def mapped_devices(mappings: Iterable[DeviceMapping]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """OCI devices and their cgroup rules. Raises InvalidArgument when a host path is no device."""
    devices: list[dict[str, Any]] = []
    rules: list[dict[str, Any]] = []
    for mapping in mappings:
        target = mapping.path_in_container or mapping.path_on_host
        try:
            path = os.path.realpath(mapping.path_on_host, strict=True)
            one = _device(path, target)
            found = [one] if one else devices_below(path, target) if os.path.isdir(path) else []
        except OSError as error:
            raise InvalidArgument(
                f'error gathering device information while adding custom device "{mapping.path_on_host}": '
                f"{(error.strerror or str(error)).lower()}",
                field="HostConfig.Devices",
            ) from error
        if not found:
            raise InvalidArgument(
                f'error gathering device information while adding custom device "{mapping.path_on_host}": '
                "not a device node",
                field="HostConfig.Devices",
            )
        devices += found
        rules += [
            {
                "allow": True,
                "type": device["type"],
                "major": device["major"],
                "minor": device["minor"],
                "access": mapping.cgroup_permissions or "rwm",
            }
            for device in found
        ]
    return devices, rules


def device_rule(text: str) -> dict[str, Any]:
    """``c 42:* rmw`` as an OCI rule. Control has checked the grammar."""
    kind, numbers, access = text.split()
    major, _, minor = numbers.partition(":")
    rule: dict[str, Any] = {"allow": True, "type": kind, "access": access}
    if major != "*":
        rule["major"] = int(major)
    if minor != "*":
        rule["minor"] = int(minor)
    return rule


def _cpu(host: HostConfig) -> dict[str, Any]:
    cpu: dict[str, Any] = {}
    if host.cpu_shares:
        cpu["shares"] = host.cpu_shares
    if host.nano_cpus:
        cpu["period"] = CPU_PERIOD_US
        cpu["quota"] = host.nano_cpus * CPU_PERIOD_US // 1_000_000_000
    if host.cpu_period:
        cpu["period"] = host.cpu_period
    if host.cpu_quota:
        cpu["quota"] = host.cpu_quota
    if host.cpu_realtime_period:
        cpu["realtimePeriod"] = host.cpu_realtime_period
    if host.cpu_realtime_runtime:
        cpu["realtimeRuntime"] = host.cpu_realtime_runtime
    if host.cpuset_cpus:
        cpu["cpus"] = host.cpuset_cpus
    if host.cpuset_mems:
        cpu["mems"] = host.cpuset_mems
    return cpu


def _memory(host: HostConfig) -> dict[str, Any]:
    memory: dict[str, Any] = {}
    if host.memory:
        memory["limit"] = host.memory
        memory["swap"] = host.memory_swap or host.memory * 2
    if host.memory_swap and not host.memory:
        memory["swap"] = host.memory_swap
    if host.memory_reservation:
        memory["reservation"] = host.memory_reservation
    if host.memory_swappiness is not None and host.memory_swappiness >= 0:
        memory["swappiness"] = host.memory_swappiness
    if host.oom_kill_disable:
        memory["disableOOMKiller"] = True
    if host.kernel_memory_tcp:
        memory["kernelTCP"] = host.kernel_memory_tcp
    return memory


def _throttle(devices: Iterable[Any]) -> list[dict[str, int]]:
    result = []
    for device in devices:
        try:
            number = os.stat(device.path).st_rdev
        except OSError as error:
            raise InvalidArgument(
                f"stat {device.path}: {(error.strerror or str(error)).lower()}", field="HostConfig.Blkio"
            ) from error
        entry = {"major": os.major(number), "minor": os.minor(number)}
        entry["rate" if hasattr(device, "rate") else "weight"] = (
            device.rate if hasattr(device, "rate") else device.weight
        )
        result.append(entry)
    return result


def _block_io(host: HostConfig) -> dict[str, Any]:
    block: dict[str, Any] = {}
    if host.blkio_weight:
        block["weight"] = host.blkio_weight
    for name, key in (
        ("blkio_weight_device", "weightDevice"),
        ("blkio_device_read_bps", "throttleReadBpsDevice"),
        ("blkio_device_write_bps", "throttleWriteBpsDevice"),
        ("blkio_device_read_iops", "throttleReadIOPSDevice"),
        ("blkio_device_write_iops", "throttleWriteIOPSDevice"),
    ):
        if devices := getattr(host, name):
            block[key] = _throttle(devices)
    return block


def oci_resources(host: HostConfig, *, devices: bool = True) -> dict[str, Any]:
    """linux.resources of a container; without device rules for an update."""
    resources: dict[str, Any] = {}
    for key, part in (("cpu", _cpu(host)), ("memory", _memory(host)), ("blockIO", _block_io(host))):
        if part:
            resources[key] = part
    if host.pids_limit is not None:
        resources["pids"] = {"limit": host.pids_limit if host.pids_limit > 0 else -1}
    if devices:
        if host.privileged:
            resources["devices"] = defaults.device_rules(privileged=True)
        else:
            rules = [device_rule(text) for text in host.device_cgroup_rules]
            resources["devices"] = defaults.device_rules(privileged=False) + mapped_devices(host.devices)[1] + rules
    return resources
