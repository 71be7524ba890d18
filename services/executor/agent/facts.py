"""What this node is: read once at start, for `docker info` and for the scheduler."""

from __future__ import annotations

import os
import platform
import socket
from pathlib import Path

from services.executor.agent import host
from services.executor.agent.shims.runtimes import Runtimes
from shared.config import OWN_RUNTIME, OWN_RUNTIMES
from shared.contracts.containers import NodeFacts
from shared.docker.moments import rfc3339_now

RUNTIME_WARNING = "WARNING: runtime "
TINI_PATHS = ("/usr/bin/tini-static", "/usr/bin/docker-init", "/usr/libexec/docker/docker-init", "/usr/bin/tini")


def os_release() -> dict[str, str]:
    """The fields of os-release(5)."""
    fields: dict[str, str] = {}
    for path in ("/etc/os-release", "/usr/lib/os-release"):
        try:
            text = Path(path).read_text(encoding="utf-8")
        except OSError:
            continue
        for line in text.splitlines():
            key, separator, value = line.partition("=")
            if separator:
                fields[key] = value.strip().strip('"')
        return fields
    return fields


def init_binary() -> str:
    """A static init to bind at /sbin/docker-init for ``--init``; empty when the node has none."""
    return next((path for path in TINI_PATHS if os.access(path, os.X_OK)), "")


def with_runtimes(facts: NodeFacts, runtimes: Runtimes, default: str) -> NodeFacts:
    """The facts with what a configuration says of runtimes."""
    usable = runtimes.usable()
    names = dict.fromkeys(sorted(OWN_RUNTIMES), "") | {name: entry.path for name, entry in usable.items()}
    others = [text for text in facts.warnings if not text.startswith(RUNTIME_WARNING)]
    return facts.model_copy(
        update={
            "runtimes": names,
            "runtime_args": {name: list(entry.runtime_args) for name, entry in usable.items() if entry.runtime_args},
            "default_runtime": default or OWN_RUNTIME,
            "warnings": others + [f"{RUNTIME_WARNING}{text}" for text in runtimes.missing()],
        }
    )


def node_facts(node: str, cgroup_kind: str) -> NodeFacts:
    """What does not change while the agent runs."""
    release = os_release()
    warnings = []
    if not _swap_accounting(cgroup_kind):
        warnings.append("WARNING: No swap limit support")
    return NodeFacts(
        node=node,
        hostname=socket.gethostname(),
        kernel_version=platform.release(),
        operating_system=release.get("PRETTY_NAME", "Linux"),
        os_version=release.get("VERSION_ID", ""),
        architecture=platform.machine(),
        cpus=host.cpus(),
        memory_bytes=host.memory_bytes(),
        cgroup_version="2" if cgroup_kind == "v2" else "1",
        security_options=["name=seccomp,profile=builtin"] + (["name=cgroupns"] if cgroup_kind == "v2" else []),
        features=_features(cgroup_kind),
        warnings=warnings,
        init_path=init_binary(),
        seen_at=rfc3339_now(),
    )


def _features(cgroup_kind: str) -> dict[str, bool]:
    """What limits the kernel has; control discards the others, as Docker does."""
    v1 = cgroup_kind != "v2"
    return {
        "memory_limit": True,
        "swap_limit": _swap_accounting(cgroup_kind),
        "memory_swappiness": v1,
        "oom_kill_disable": v1,
        "cpu_cfs": True,
        "cpuset": True,
        "pids_limit": True,
        "ipv4_forwarding": True,
        # v2 offers io.weight per group, and only where a scheduler makes use of it: the start says so if none does.
        "blkio_weight": not v1 or _blkio_has("weight"),
        "blkio_weight_device": not v1 or _blkio_has("weight_device"),
    }


def _blkio_has(name: str) -> bool:
    """Whether v1's controller has weights: the scheduler BFQ's are in every group but the root, its counters there."""
    group = "/sys/fs/cgroup/blkio"
    return any(os.path.exists(f"{group}/blkio.{file}") for file in (name, "bfq.io_service_bytes"))


def _swap_accounting(cgroup_kind: str) -> bool:
    if cgroup_kind == "v2":
        return True
    return os.path.exists("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes")
