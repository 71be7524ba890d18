"""features, spec, and what is refused.

Source: OCI runtime-spec 1.3, features.md and features-linux.md; the default config.json is runc's in meaning.
"""

from __future__ import annotations

import os
import sys

from services.executor.runtime import jsonlite
from services.executor.runtime.commands.options import Option, UsageError
from services.executor.runtime.errors import NotSupported, RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def refuse_checkpoint(_config: Any, _options: dict[str, Any], _arguments: list[str]) -> int:
    """`checkpoint` and `restore`."""
    raise NotSupported("checkpoint", "checkpoint and restore are not supported by davit-runc")


def features(_config: Any, _options: dict[str, Any], arguments: list[str]) -> int:
    """`features`: what this build and this kernel can do, as JSON."""
    if arguments:
        raise UsageError('"features" requires exactly 0 argument(s)')
    sys.stdout.write(jsonlite.dumps(describe(), indent="    ") + "\n")
    return 0


def describe() -> dict[str, Any]:
    """The features structure."""
    from services.executor.runtime.commands.store import SPEC_VERSION
    from services.executor.runtime.seccomp import code as seccomp_code
    from services.executor.runtime.seccomp import compiler
    from services.executor.runtime.seccomp import filter as seccomp_filter
    from services.executor.runtime.spec import capabilities
    from services.executor.runtime.spec.mountoptions import FLAGS, LINKS, PROPAGATION, RECURSIVE
    from services.executor.runtime.steps import hooks, memorypolicy, namespaces

    apparmor = os.path.isdir("/sys/kernel/security/apparmor")
    return {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": SPEC_VERSION,
        "hooks": list(hooks.KINDS),
        "mountOptions": sorted({*FLAGS, *PROPAGATION, *RECURSIVE, *LINKS, "tmpcopyup", "idmap", "ridmap"}),
        "linux": {
            "namespaces": sorted(namespaces.FLAGS),
            "capabilities": list(capabilities.NAMES),
            "cgroup": {"v1": True, "v2": True, "systemd": True, "systemdUser": False, "rdma": True},
            "seccomp": {
                "enabled": True,
                "actions": seccomp_filter.supported_actions(),
                "operators": list(compiler.OPERATORS),
                "archs": list(seccomp_code.ARCHITECTURES),
                "knownFlags": list(seccomp_filter.FLAGS),
                "supportedFlags": seccomp_filter.supported_flags(),
            },
            "apparmor": {"enabled": apparmor},
            "selinux": {"enabled": os.path.exists("/sys/fs/selinux/enforce")},
            "intelRdt": {"enabled": False},
            "mountExtensions": {"idmap": {"enabled": True}},
            "netDevices": {"enabled": True},
            "memoryPolicy": {"modes": list(memorypolicy.MODES), "flags": list(memorypolicy.FLAGS)},
        },
        "annotations": {"davit.runtime": "davit-runc"},
        # no annotation changes what this runtime does
        "potentiallyUnsafeConfigAnnotations": [],
    }


SPEC_OPTIONS = (
    Option("bundle b", "text", "path to the root of the bundle directory", ""),
    Option("rootless", "flag", "generate a configuration for a rootless container"),
)


def write_spec(_config: Any, options: dict[str, Any], arguments: list[str]) -> int:
    """`spec`: a config.json to start from."""
    if arguments:
        raise UsageError('"spec" requires exactly 0 argument(s)')
    path = os.path.join(options["bundle"], "config.json")
    spec = example()
    if options["rootless"]:
        _make_rootless(spec)
    try:
        with open(path, "x", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0o666 & ~_umask())
            file.write(jsonlite.dumps(spec, indent="\t"))
    except FileExistsError:
        raise RuntimeFailure(f"File {path} exists. Remove it first") from None
    return 0


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def example() -> dict[str, Any]:
    """A shell in a read-only rootfs with few capabilities and namespaces of its own."""
    sets = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
    return {
        "ociVersion": "1.2.0",
        "process": {
            "terminal": True,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {name: list(sets) for name in ("bounding", "effective", "permitted")},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "davit",
        "mounts": _mounts(),
        "linux": {
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount", *_cgroup_namespace())],
            "maskedPaths": [
                "/proc/acpi",
                "/proc/asound",
                "/proc/kcore",
                "/proc/keys",
                "/proc/latency_stats",
                "/proc/timer_list",
                "/proc/timer_stats",
                "/proc/sched_debug",
                "/sys/firmware",
                "/proc/scsi",
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    }


def _cgroup_namespace() -> tuple[str, ...]:
    return ("cgroup",) if os.path.exists("/sys/fs/cgroup/cgroup.controllers") else ()


def _mounts() -> list[dict[str, Any]]:
    safe = ["nosuid", "noexec", "nodev"]
    devpts = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]
    rows = (
        ("/proc", "proc", "proc", None),
        ("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        ("/dev/pts", "devpts", "devpts", devpts),
        ("/dev/shm", "tmpfs", "shm", [*safe, "mode=1777", "size=65536k"]),
        ("/dev/mqueue", "mqueue", "mqueue", safe),
        ("/sys", "sysfs", "sysfs", [*safe, "ro"]),
        ("/sys/fs/cgroup", "cgroup", "cgroup", [*safe, "relatime", "ro"]),
    )
    return [
        {"destination": destination, "type": kind, "source": source, **({"options": options} if options else {})}
        for destination, kind, source, options in rows
    ]


def _make_rootless(spec: dict[str, Any]) -> None:
    """A user namespace with the one id we have; nothing that needs more."""
    linux = spec["linux"]
    linux["namespaces"] = [e for e in linux["namespaces"] if e["type"] not in {"network", "user"}] + [{"type": "user"}]
    linux["uidMappings"] = [{"containerID": 0, "hostID": os.geteuid(), "size": 1}]
    linux["gidMappings"] = [{"containerID": 0, "hostID": os.getegid(), "size": 1}]
    linux.pop("resources")
    mounts = [m for m in spec["mounts"] if m["destination"] not in {"/sys", "/sys/fs/cgroup"}]
    for mount in mounts:
        # one group is all there is: gid=5 is not mapped
        mount["options"] = [option for option in mount.get("options") or [] if not option.startswith("gid=")]
    spec["mounts"] = [
        *mounts,
        {
            "destination": "/sys",
            "type": "none",
            "source": "/sys",
            "options": ["rbind", "nosuid", "noexec", "nodev", "ro"],
        },
    ]
