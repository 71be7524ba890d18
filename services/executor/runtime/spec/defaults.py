"""What Docker puts into a container's spec when nobody says otherwise, as data.

Every function answers fresh objects that the caller may change.

Source: the OCI spec the reference engine hands to its runtime; Docker Engine API, HostConfig.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

OCI_VERSION = "1.2.0"

DEFAULT_SHM_BYTES = 64 * 1024 * 1024

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

MASKED_PATHS: tuple[str, ...] = (
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
)
"""Docker's list of today: /proc/interrupts and powercap, which leak timing and power, came after the reference."""

READONLY_PATHS: tuple[str, ...] = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

NAMESPACES: tuple[str, ...] = ("mount", "network", "uts", "pid", "ipc")

_DEVICES: tuple[tuple[int, int], ...] = ((1, 5), (1, 3), (1, 9), (1, 8), (5, 0), (5, 1))


def mounts(*, privileged: bool = False, shm_bytes: int = DEFAULT_SHM_BYTES) -> list[dict[str, Any]]:
    """The file systems of the kernel that every container sees; /sys and the cgroups writable when privileged."""
    sys_access, cgroup_access = ("rw", "rw") if privileged else ("ro", "ro")
    return [
        _mount("/proc", "proc", "proc", ["nosuid", "noexec", "nodev"]),
        _mount("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        _mount(
            "/dev/pts", "devpts", "devpts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]
        ),
        _mount("/sys", "sysfs", "sysfs", ["nosuid", "noexec", "nodev", sys_access]),
        _mount("/sys/fs/cgroup", "cgroup", "cgroup", [cgroup_access, "nosuid", "noexec", "nodev"]),
        _mount("/dev/mqueue", "mqueue", "mqueue", ["nosuid", "noexec", "nodev"]),
        _mount("/dev/shm", "tmpfs", "shm", ["nosuid", "noexec", "nodev", "mode=1777", f"size={shm_bytes}"]),
    ]


def _mount(destination: str, kind: str, source: str, options: list[str]) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": source, "options": options}


def namespaces(*, cgroup: bool) -> list[dict[str, Any]]:
    """New ones of every kind but user and time; the cgroup namespace is Docker's default on version 2 only."""
    kinds = (*NAMESPACES, "cgroup") if cgroup else NAMESPACES
    return [{"type": kind} for kind in kinds]


def device_rules(*, privileged: bool = False) -> list[dict[str, Any]]:
    """Which device files may be opened; the runtime adds what it allows everyone (terminals, making nodes)."""
    if privileged:
        return [{"allow": True, "access": "rwm"}]
    return [
        {"allow": False, "access": "rwm"},
        *({"allow": True, "type": "c", "major": major, "minor": minor, "access": "rwm"} for major, minor in _DEVICES),
        # /dev/fuse: root in the container could mount what an unprivileged host user prepared
        {"allow": False, "type": "c", "major": 10, "minor": 229, "access": "rwm"},
    ]


def masked_paths(*, privileged: bool = False) -> list[str]:
    """Paths made to look empty; none when privileged."""
    return [] if privileged else list(MASKED_PATHS)


def readonly_paths(*, privileged: bool = False) -> list[str]:
    """Paths that cannot be written below; none when privileged."""
    return [] if privileged else list(READONLY_PATHS)


def capability_sets(names: Iterable[str], uid: int) -> dict[str, list[str]]:
    """The five sets from one list: all but inheritable and ambient for root, the bounding set alone for others.

    A set-uid program can then still give another user what the container may have, and nothing is inherited.
    """
    names = list(names)
    if uid != 0:
        return {"bounding": names}
    return {"bounding": names, "effective": list(names), "permitted": list(names)}


def sysctls(*, network: bool = True, user_namespace: bool = False) -> dict[str, str]:
    """Unprivileged low ports and ping, which lets most images do without capabilities.

    Args:
        network: whether the container has a network namespace of its own.
        user_namespace: groups that are not mapped there would make the kernel refuse the range.
    """
    if not network:
        return {}
    found = {"net.ipv4.ip_unprivileged_port_start": "0"}
    if not user_namespace:
        found["net.ipv4.ping_group_range"] = "0 2147483647"
    return found


def default_spec(*, privileged: bool = False, cgroup_namespace: bool = False) -> dict[str, Any]:
    """A spec without args and rootfs; the caller fills in the container."""
    from services.executor.runtime.spec import capabilities

    names = capabilities.docker_capabilities(None, None, privileged)
    return {
        "ociVersion": OCI_VERSION,
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": [],
            "env": [f"PATH={DEFAULT_PATH}"],
            "cwd": "/",
            "capabilities": capability_sets(names, 0),
            "oomScoreAdj": 0,
        },
        "root": {"path": "rootfs"},
        "mounts": mounts(privileged=privileged),
        "linux": {
            "sysctl": sysctls(),
            "resources": {"devices": device_rules(privileged=privileged)},
            "namespaces": namespaces(cgroup=cgroup_namespace),
            "maskedPaths": masked_paths(privileged=privileged),
            "readonlyPaths": readonly_paths(privileged=privileged),
        },
    }
