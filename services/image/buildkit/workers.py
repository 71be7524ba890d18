"""What the engine says of itself to clients: its one worker, and what it can do, by the names of BuildKit's lists.

Source: moby/buildkit, solver/pb/caps.go and frontend/gateway/pb/caps.go (names).
"""

from __future__ import annotations

import platform
import uuid

from services.image.build.steps.platforms import machine_platform
from services.image.buildkit.wire import caps_pb2, ops_pb2, worker_pb2
from shared.version import VERSION

NAMESPACE = uuid.UUID("7a0bdb50-93cd-4e1f-b2f3-4c8b3f6a1d02")
HOST_GATEWAY = "org.mobyproject.buildkit.worker.moby.host-gateway-ip"
# With it clients ask for archives, images for several platforms and pushes.
SNAPSHOTTER = "org.mobyproject.buildkit.worker.snapshotter"
# The version of BuildKit whose protocol this is; clients switch features on by it.
PACKAGE, REVISION = "github.com/moby/buildkit", ""

FRONTEND_CAPS = (
    "frontend.caps",
    "frontend.inputs",
    "gateway.evaluate",
    "gateway.solve.evaluate",
    "gateway.solve.metadata",
    "gateway.warnings",
    "importcaches",
    "proto.refarray",
    "readdir",
    "readfile",
    "reference.output",
    "resolveimage",
    "resolveimage.resolvemode",
    "return",
    "returnmap",
    "solve.base",
    "source.metaresolver",
    "statfile",
)
LLB_CAPS = (
    "constraints",
    "exec.cgroup",
    "exec.meta.base",
    "exec.meta.cgroup.parent",
    "exec.meta.network",
    "exec.meta.proxyenv",
    "exec.meta.security",
    "exec.meta.setsdefaultpath",
    "exec.meta.ulimit",
    "exec.mount.bind",
    "exec.mount.bind.readwrite-nooutput",
    "exec.mount.cache",
    "exec.mount.cache.sharing",
    "exec.mount.secret",
    "exec.mount.selector",
    "exec.mount.ssh",
    "exec.mount.tmpfs",
    "exec.mount.tmpfs.size",
    "exec.secretenv",
    "exporter.image.annotations",
    "exporter.image.attestations",
    "exporter.multiple",
    "exporter.session",
    "file.base",
    "file.copy.includeexcludepatterns",
    "file.rm.wildcard",
    "gc.freespacefilter",
    "history.filter",
    "meta.description",
    "meta.exportcache",
    "meta.ignorecache",
    "platform",
    "source.git",
    "source.git.fullurl",
    "source.git.keepgitdir",
    "source.git.subdir",
    "source.http",
    "source.http.checksum",
    "source.image",
    "source.image.resolvemode",
    "source.local",
    "source.local.excludepatterns",
    "source.local.followpaths",
    "source.local.includepatterns",
    "source.local.sessionid",
    "source.local.sharedkeyhint",
    "source.local.unique",
)


def own_platforms() -> list[ops_pb2.Platform]:
    os_name, architecture, variant = machine_platform()
    return [ops_pb2.Platform(OS=os_name, Architecture=architecture, Variant=variant)]


def version() -> worker_pb2.BuildkitVersion:
    return worker_pb2.BuildkitVersion(package=PACKAGE, version=f"v0.0.0+davit-{VERSION}", revision=REVISION)


def worker(node: str, gateway: str) -> worker_pb2.WorkerRecord:
    """Args: gateway: the address that ``host-gateway`` stands for."""
    return worker_pb2.WorkerRecord(
        ID=str(uuid.uuid5(NAMESPACE, node or platform.node())),
        Labels={HOST_GATEWAY: gateway, SNAPSHOTTER: "overlayfs"},
        platforms=own_platforms(),
        BuildkitVersion=version(),
    )


def caps(names: tuple[str, ...]) -> list[caps_pb2.APICap]:
    return [caps_pb2.APICap(ID=name, Enabled=True) for name in names]
