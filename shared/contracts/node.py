"""Orders to the agent of one node, and what it reports.

Reports are requests that the agent repeats until control has committed them; until then the node's own files (the
exit record in the container's directory) keep them. Each is identified by container and generation, so a repeated
one changes nothing.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from shared.bus.client import Contract, Empty
from shared.bus.handover import PipeRef
from shared.bus.streams import StreamRef
from shared.contracts import containers
from shared.contracts.containers import HealthLogEntry, NodeFacts
from shared.contracts.docker import ContainerConfig, HostConfig, Resources
from shared.contracts.networks import Attachment


class OrderedMount(BaseModel):
    """A mount, resolved: nothing is left to decide on the node.

    Attributes:
        type: bind, volume, tmpfs or image.
        source: Host path for bind; volume name for volume; image id for image; empty for tmpfs.
        options: mount(8) words for tmpfs (``size=64m``); for volumes, the driver's options (type, o, device).
        propagation: rprivate (default), private, rshared, shared, rslave, slave.
        create_source: Make a missing host directory (``-v`` does, ``--mount`` is an error).
        copy_up: Copy the image's data at the target into an empty volume at first use.
        recursive_read_only: auto, force or no.
    """

    type: Literal["bind", "volume", "tmpfs", "image"]
    source: str = ""
    target: str
    read_only: bool = False
    propagation: str = "rprivate"
    recursive: bool = True
    recursive_read_only: str = "auto"
    create_source: bool = False
    copy_up: bool = False
    subpath: str = ""
    options: list[str] = Field(default_factory=list)
    volume_options: dict[str, str] = Field(default_factory=dict)
    layers: list[str] = Field(default_factory=list)


class ContainerOrder(BaseModel):
    """Everything a node needs to run a container, now and again after an exit, without asking anybody.

    Attributes:
        generation: Number of this start; also the idempotency key.
        start_key: The client's wish that led to this start; comes back with what is told of it.
        layers: Chain ids of the image, lowest first.
        config: Image and client merged: env, user, working_dir, labels, healthcheck, stop signal are final.
        path, args: The command, resolved from entrypoint and cmd.
        network_mode: ``host``, ``none``, ``container:<full id>``, or ``networks`` (use `attachments`).
        hosts_from: For container:<id>, nothing; else lines for /etc/hosts come from attachments and extra_hosts.
        restart_count: Automatic restarts so far.
        log_driver, log_options: ``json-file`` (max-size, max-file, compress, labels, env) or ``none``.
    """

    id: str
    name: str
    generation: int
    start_key: str = ""
    layers: list[str]
    config: ContainerConfig
    host_config: HostConfig
    path: str
    args: list[str]
    hostname: str = ""
    domainname: str = ""
    network_mode: str = "networks"
    attachments: list[Attachment] = Field(default_factory=list)
    mounts: list[OrderedMount] = Field(default_factory=list)
    restart_count: int = 0
    log_driver: str = "json-file"
    log_options: dict[str, str] = Field(default_factory=dict)
    image_id: str = ""
    image_name: str = ""
    runtime: str = ""


class Started(BaseModel):
    pid: int
    started_at_ns: int


class ContainerId(BaseModel):
    id: str


class PrepareContainer(BaseModel):
    """Make a container's directory and its file system usable before its first start (cp into a created one)."""

    order: ContainerOrder


class StopOrder(BaseModel):
    """Signal, wait, then SIGKILL. timeout_s: -1 waits for ever. Also stops pending automatic restarts."""

    id: str
    signal: int = 15
    timeout_s: int = 10


class ExitRecord(BaseModel):
    """exit_code: 0–255, 128+n for signal n. error: why it did not start, if so."""

    id: str
    generation: int
    start_key: str = ""
    exit_code: int
    oom_killed: bool = False
    started_at_ns: int = 0
    finished_at_ns: int = 0
    error: str = ""


class SignalOrder(BaseModel):
    """deliberate: a kill or stop by a user, after which ``unless-stopped`` and ``always`` do not restart."""

    id: str
    signal: int
    deliberate: bool = True


class UpdateOrder(BaseModel):
    id: str
    resources: Resources
    set_fields: list[str] = Field(default_factory=list)
    restart_name: str | None = None
    restart_maximum: int = 0


class RenameOrder(BaseModel):
    id: str
    name: str


class RemoveOrder(BaseModel):
    """Delete all that the node keeps of a container that does not run. Idempotent."""

    id: str


class ExecOrder(BaseModel):
    id: str
    container_id: str
    spec: containers.ExecSpec
    detach: bool = False
    stream: StreamRef | None = None
    console_size: list[int] = Field(default_factory=list)


class ResizeOrder(BaseModel):
    id: str
    exec_id: str = ""
    height: int
    width: int


class LogOrder(BaseModel):
    id: str
    request: containers.Logs


class AttachOrder(BaseModel):
    id: str
    request: containers.Attach


class Attached(BaseModel):
    """position: As in `containers.AttachInfo`."""

    position: str = ""


class TopOrder(BaseModel):
    id: str
    ps_args: str


class StatsOrder(BaseModel):
    id: str
    name: str
    one_shot: bool = False


class PathOrder(BaseModel):
    id: str
    path: str


class GetArchiveOrder(PathOrder):
    stream: StreamRef
    pipe: PipeRef | None = None


class PutArchiveOrder(PathOrder):
    stream: StreamRef
    pipe: PipeRef | None = None
    no_overwrite_dir_non_dir: bool = False
    copy_uid_gid: bool = False


class ExportOrder(BaseModel):
    id: str
    stream: StreamRef
    pipe: PipeRef | None = None


class PackChanges(BaseModel):
    """The stream offered by the agent on which the container's changes leave as an uncompressed layer tar."""

    stream: StreamRef


class Sizes(BaseModel):
    """Bytes by container id: of the writable layer, and of all layers."""

    rw: dict[str, int]
    root_fs: dict[str, int]


class SizesOrder(BaseModel):
    """layers: Chain ids, by container, of those that may not have been prepared on the node."""

    ids: list[str]
    layers: dict[str, list[str]] = Field(default_factory=dict)


class AttachNetwork(BaseModel):
    id: str
    attachment: Attachment


class DetachNetwork(BaseModel):
    id: str
    endpoint_id: str


class ContainerReport(BaseModel):
    """What happened to a container on its node.

    Attributes:
        kind: exited; restarting (exited, will start again after a pause); started (again, by policy); oom; health.
        delay_s: For restarting, the pause.
    """

    node: str
    id: str
    generation: int
    kind: Literal["exited", "restarting", "started", "oom", "health"]
    exit: ExitRecord | None = None
    pid: int = 0
    started_at_ns: int = 0
    restart_count: int = 0
    health_status: str = ""
    failing_streak: int = 0
    health_entry: HealthLogEntry | None = None
    at_ns: int = 0


class ExecReport(BaseModel):
    node: str
    id: str
    container_id: str
    exit_code: int
    at_ns: int = 0


class InventoryItem(BaseModel):
    """A container as the node knows it. status: running, paused, restarting, exited, created."""

    id: str
    generation: int
    start_key: str = ""
    status: str
    pid: int = 0
    started_at_ns: int = 0
    restart_count: int = 0
    exit: ExitRecord | None = None


class Inventory(BaseModel):
    """Sent at every (re)connection. `control` answers with the ids that should not exist on the node.

    Attributes:
        execs: Ids of those that run, or whose end has not been acknowledged yet; None from a node that does not say.
    """

    node: str
    facts: NodeFacts
    items: list[InventoryItem]
    execs: list[str] | None = None


class InventoryAnswer(BaseModel):
    remove: list[str] = Field(default_factory=list)


# Orders
START = Contract("davit.node.{node}.container.start", ContainerOrder, Started, deadline_s=60, idempotent=True)
PREPARE = Contract("davit.node.{node}.container.prepare", PrepareContainer, Empty, deadline_s=30, idempotent=True)
STOP = Contract("davit.node.{node}.container.stop", StopOrder, ExitRecord, deadline_s=None, idempotent=True)
SIGNAL = Contract("davit.node.{node}.container.signal", SignalOrder, Empty)
PAUSE = Contract("davit.node.{node}.container.pause", ContainerId, Empty, deadline_s=20, idempotent=True)
UNPAUSE = Contract("davit.node.{node}.container.unpause", ContainerId, Empty, deadline_s=20, idempotent=True)
UPDATE = Contract("davit.node.{node}.container.update", UpdateOrder, Empty, idempotent=True)
RENAME = Contract("davit.node.{node}.container.rename", RenameOrder, Empty, idempotent=True)
REMOVE = Contract("davit.node.{node}.container.remove", RemoveOrder, Empty, deadline_s=60, idempotent=True)
RESIZE = Contract("davit.node.{node}.container.resize", ResizeOrder, Empty, idempotent=True)
TOP = Contract("davit.node.{node}.container.top", TopOrder, containers.TopResult, idempotent=True)
STATS = Contract("davit.node.{node}.container.stats", StatsOrder, containers.StatsResult, idempotent=True)
LOGS = Contract("davit.node.{node}.container.logs", LogOrder, Empty)
ATTACH = Contract("davit.node.{node}.container.attach", AttachOrder, Attached)
STAT_PATH = Contract("davit.node.{node}.container.stat", PathOrder, containers.PathStat, deadline_s=30, idempotent=True)
GET_ARCHIVE = Contract("davit.node.{node}.container.getarchive", GetArchiveOrder, containers.PathStat, deadline_s=30)
PUT_ARCHIVE = Contract("davit.node.{node}.container.putarchive", PutArchiveOrder, Empty, deadline_s=3600)
EXPORT = Contract("davit.node.{node}.container.export", ExportOrder, Empty, deadline_s=30)
CHANGES = Contract(
    "davit.node.{node}.container.changes", ContainerId, containers.Changes, deadline_s=60, idempotent=True
)
PACK_CHANGES = Contract("davit.node.{node}.container.pack", ContainerId, PackChanges, deadline_s=30)
SIZES = Contract("davit.node.{node}.container.sizes", SizesOrder, Sizes, deadline_s=60, idempotent=True)
EXEC_START = Contract("davit.node.{node}.exec.start", ExecOrder, Started, deadline_s=60)
ATTACH_NETWORK = Contract("davit.node.{node}.container.connect", AttachNetwork, Empty, deadline_s=20, idempotent=True)
DETACH_NETWORK = Contract(
    "davit.node.{node}.container.disconnect", DetachNetwork, Empty, deadline_s=20, idempotent=True
)
# Reports
REPORT = Contract(
    "davit.control.report.container.{node}", ContainerReport, Empty, deadline_s=5, idempotent=True, frees=True
)
REPORT_EXEC = Contract("davit.control.report.exec.{node}", ExecReport, Empty, deadline_s=5, idempotent=True, frees=True)
INVENTORY = Contract(
    "davit.control.report.inventory.{node}", Inventory, InventoryAnswer, deadline_s=15, idempotent=True, frees=True
)
