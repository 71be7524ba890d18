"""Containers and execs: what control answers to the API edge and to other services."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from shared.bus.client import Contract, Empty
from shared.bus.handover import PipeRef
from shared.bus.streams import StreamRef
from shared.contracts.docker import (
    ContainerConfig,
    EndpointSettings,
    HostConfig,
    NetworkingConfig,
    PortMap,
    Resources,
    RestartPolicy,
)
from shared.docker.filters import Filters

Status = Literal["created", "running", "paused", "restarting", "removing", "exited", "dead"]


class CreateContainer(BaseModel):
    """A container to be made.

    Attributes:
        id: 64 hex digits chosen by who asks, so that it may ask again; control chooses when empty.
        repeated: An earlier attempt may have succeeded: then its container is the answer.
    """

    id: str = ""
    repeated: bool = False
    name: str = ""
    config: ContainerConfig
    host_config: HostConfig = Field(default_factory=HostConfig)
    networking_config: NetworkingConfig = Field(default_factory=NetworkingConfig)
    platform: str = ""
    api_version: str = ""


class CreatedContainer(BaseModel):
    id: str
    warnings: list[str] = Field(default_factory=list)


class ContainerRef(BaseModel):
    """A container by name, id or unique id prefix."""

    ref: str


class StartContainer(ContainerRef):
    """key: names this wish; a repetition answers what came of it instead of starting again."""

    detach_keys: str = ""
    key: str = ""


class StopContainer(ContainerRef):
    """Stop, or stop and start.

    Attributes:
        timeout_s: None is the container's own, -1 waits for ever, 0 kills at once.
        key: For a restart, as in `StartContainer`.
    """

    timeout_s: int | None = None
    signal: str = ""
    key: str = ""


class KillContainer(ContainerRef):
    signal: str = ""


class RenameContainer(ContainerRef):
    name: str


class RemoveContainer(ContainerRef):
    force: bool = False
    volumes: bool = False
    link: bool = False


class ResizeContainer(ContainerRef):
    height: int
    width: int


class UpdateContainer(ContainerRef):
    """`set_fields` names what the client sent (attribute names of Resources), since 0 may mean "no limit"."""

    resources: Resources
    restart_policy: RestartPolicy | None = None
    set_fields: list[str] = Field(default_factory=list)


class Warnings(BaseModel):
    warnings: list[str] = Field(default_factory=list)


class WaitContainer(ContainerRef):
    """Wait a while for a condition; ask again with the reply's `ticket` while it is pending.

    Attributes:
        ticket: From the previous reply: fixes which exit ``next-exit`` means, across calls and restarts of control.
        patience_s: How long this one call may wait.
    """

    condition: Literal["not-running", "next-exit", "removed"] = "not-running"
    ticket: str = ""
    patience_s: float = 5.0


class WaitResult(BaseModel):
    pending: bool = False
    ticket: str = ""
    status_code: int = 0
    error: str = ""


class HealthLogEntry(BaseModel):
    start: str
    end: str
    exit_code: int
    output: str


class Health(BaseModel):
    status: str
    failing_streak: int = 0
    log: list[HealthLogEntry] = Field(default_factory=list)


class ContainerState(BaseModel):
    """Times are RFC 3339 with nanoseconds, or Docker's zero time."""

    status: Status = "created"
    running: bool = False
    paused: bool = False
    restarting: bool = False
    oom_killed: bool = False
    dead: bool = False
    pid: int = 0
    exit_code: int = 0
    error: str = ""
    started_at: str = "0001-01-01T00:00:00Z"
    finished_at: str = "0001-01-01T00:00:00Z"
    health: Health | None = None


class MountPoint(BaseModel):
    """A mount as inspect shows it. type: bind, volume, tmpfs, image."""

    type: str
    name: str = ""
    source: str = ""
    destination: str
    driver: str = ""
    mode: str = ""
    rw: bool = True
    propagation: str = ""


class Container(BaseModel):
    """One container, complete.

    Attributes:
        generation: Number of the latest start; an exit record of an older one changes nothing.
        networks: By network name: what was asked for and, while running, what it got.
        ports: Published ports as allocated, while running; exposed ones map to an empty list.
        as_of: When the node last confirmed this state (RFC 3339); `stale` when the node is away.
        known_until_ns: When `stale` changes if nothing else does; nanoseconds since the epoch.
    """

    id: str
    name: str
    created_at: str
    path: str = ""
    args: list[str] = Field(default_factory=list)
    image_id: str = ""
    config: ContainerConfig
    host_config: HostConfig
    state: ContainerState = Field(default_factory=ContainerState)
    mounts: list[MountPoint] = Field(default_factory=list)
    networks: dict[str, EndpointSettings] = Field(default_factory=dict)
    ports: PortMap = Field(default_factory=dict)
    sandbox_id: str = ""
    restart_count: int = 0
    exec_ids: list[str] = Field(default_factory=list)
    node: str = ""
    layers: list[str] = Field(default_factory=list)
    platform: str = "linux"
    log_path: str = ""
    resolv_conf_path: str = ""
    hostname_path: str = ""
    hosts_path: str = ""
    upper_dir: str = ""
    generation: int = 0
    as_of: str = ""
    stale: bool = False
    known_until_ns: int = 0
    size_rw_bytes: int | None = None
    size_root_fs_bytes: int | None = None


class InspectContainer(ContainerRef):
    size: bool = False


class ListContainers(BaseModel):
    """limit: 0 is no limit. after: id from the previous page's `next`. coded: `status_text` as its code (`status`)."""

    all: bool = False
    coded: bool = False
    limit: int = 0
    size: bool = False
    filters: Filters = Field(default_factory=dict)
    after: str = ""


class ContainerSummary(BaseModel):
    """A line of `docker ps`: the part of `Container` that lists show. created_unix: seconds.

    Attributes:
        links: Ids of the containers that it is linked to, by alias.
        aliases: Names that others' links give it, ``/web/db``; made when it is read.
    """

    id: str
    name: str
    image: str
    image_id: str
    command: str
    created_unix: int
    status: Status
    status_text: str
    labels: dict[str, str] = Field(default_factory=dict)
    network_mode: str = ""
    annotations: dict[str, str] = Field(default_factory=dict)
    mounts: list[MountPoint] = Field(default_factory=list)
    networks: dict[str, EndpointSettings] = Field(default_factory=dict)
    ports: PortMap = Field(default_factory=dict)
    links: dict[str, str] = Field(default_factory=dict)
    aliases: list[str] = Field(default_factory=list)
    size_rw_bytes: int | None = None
    size_root_fs_bytes: int | None = None
    stale: bool = False
    node: str = ""
    health: str = ""
    failing_streak: int = 0


class ContainerPage(BaseModel):
    """Newest first; `next` is empty on the last page. partial: Not all that was to be asked could be."""

    containers: list[ContainerSummary]
    next: str = ""
    partial: bool = False


class Top(ContainerRef):
    ps_args: str = "-ef"


class TopResult(BaseModel):
    titles: list[str]
    processes: list[list[str]]


class Stats(ContainerRef):
    one_shot: bool = False


class StatsResult(BaseModel):
    """Docker's own stats object, complete, with the previous sample in `precpu_stats`."""

    stats: dict[str, Any]


class Logs(ContainerRef):
    """The log leaves in batches (`shared.bus.batches`): multiplexed data unless the container has a TTY.

    Attributes:
        stream, pipe: See `GetArchive`.
        since_ns, until_ns: Nanoseconds since the epoch.
        tail: Number of last lines; -1 is all.
        after: The position of a batch: go on behind it; `tail` was counted when the first one was asked for.
        skip_bytes: Only with `after`, which is then to be exact: leave out the first so many bytes of stdout and of
            stderr, which whoever asks has had by attaching.
    """

    stream: StreamRef
    pipe: PipeRef | None = None
    stdout: bool = False
    stderr: bool = False
    follow: bool = False
    since_ns: int = 0
    until_ns: int = 0
    timestamps: bool = False
    tail: int = -1
    details: bool = False
    after: str = ""
    skip_bytes: tuple[int, int] = (0, 0)


class Attach(ContainerRef):
    """Output leaves on `stream` (multiplexed unless TTY); what arrives on it is stdin. Closed at the process's end.

    Attributes:
        key: Names this wish: asked again after control has died over it, it is the same client.
    """

    stream: StreamRef
    stdin: bool = False
    stdout: bool = False
    stderr: bool = False
    stream_output: bool = True
    logs: bool = False
    key: str = ""


class Detached(ContainerRef):
    """A client left a terminal by its detach keys; the process goes on. exec_id: when it was an exec's."""

    exec_id: str = ""


class AttachInfo(BaseModel):
    """position: Where in the container's log the output begins (`Logs.after`); empty when that is not known."""

    tty: bool
    position: str = ""


class ExecSpec(ContainerRef):
    """What a process that is added to a container is to be."""

    cmd: list[str]
    env: list[str] = Field(default_factory=list)
    user: str = ""
    working_dir: str = ""
    privileged: bool = False
    tty: bool = False
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    detach_keys: str = ""
    console_size: list[int] = Field(default_factory=list)


class CreateExec(ExecSpec):
    """id, repeated: As in `CreateContainer`."""

    id: str = ""
    repeated: bool = False


class ExecId(BaseModel):
    id: str


class StartExec(BaseModel):
    """With `detach`, answered when the process runs; else output leaves on `stream`, as in Attach.

    Attributes:
        repeated: An earlier attempt may have been carried out: then its outcome is the answer, and its stream is the
            one that was accepted.
    """

    id: str
    repeated: bool = False
    detach: bool = False
    tty: bool = False
    stream: StreamRef | None = None
    console_size: list[int] = Field(default_factory=list)


class ExecRef(BaseModel):
    id: str


class ResizeExec(ExecRef):
    height: int
    width: int


class Exec(BaseModel):
    """One exec.

    Attributes:
        started: Its process has been ordered, and the outcome is known.
        failure: Why it was not, on the wire's form of an error.
    """

    id: str
    container_id: str
    running: bool = False
    started: bool = False
    exit_code: int | None = None
    failure: dict[str, Any] | None = None
    pid: int = 0
    cmd: list[str]
    env: list[str] = Field(default_factory=list)
    user: str = ""
    working_dir: str = ""
    privileged: bool = False
    tty: bool = False
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    detach_keys: str = ""
    console_size: list[int] = Field(default_factory=list)


class ArchivePath(ContainerRef):
    path: str


class PathStat(BaseModel):
    """mode: Go's os.FileMode bits, as X-Docker-Container-Path-Stat has them. mtime: RFC 3339."""

    name: str
    size: int
    mode: int
    mtime: str
    link_target: str = ""


class GetArchive(ArchivePath):
    """A tar of the path leaves through `pipe`, or on `stream` from another machine; the stream says how it ended."""

    stream: StreamRef
    pipe: PipeRef | None = None


class PutArchive(ArchivePath):
    """A tar (any compression) arrives and is unpacked below path. Answered when done.

    Attributes:
        stream: With a pipe, its first word to the client says which of the two is to be used (`PIPED`, `STREAMED`);
            the end of the client's direction says that the archive was whole.
    """

    stream: StreamRef
    pipe: PipeRef | None = None
    no_overwrite_dir_non_dir: bool = False
    copy_uid_gid: bool = False


class Export(ContainerRef):
    """As `GetArchive`, of all files."""

    stream: StreamRef
    pipe: PipeRef | None = None


class Change(BaseModel):
    """kind: 0 modified, 1 added, 2 deleted."""

    path: str
    kind: int


class Changes(BaseModel):
    changes: list[Change]


class Commit(ContainerRef):
    repo: str = ""
    tag: str = ""
    comment: str = ""
    author: str = ""
    pause: bool = True
    changes: list[str] = Field(default_factory=list)
    config: ContainerConfig | None = None
    created_by: str = ""


class CommittedImage(BaseModel):
    id: str


class Prune(BaseModel):
    filters: Filters = Field(default_factory=dict)


class Pruned(BaseModel):
    ids: list[str]
    space_reclaimed_bytes: int = 0


class UsingImage(BaseModel):
    """Image ids to ask about; empty asks about all."""

    image_ids: list[str] = Field(default_factory=list)


class ImageUser(BaseModel):
    image_id: str
    container_id: str
    running: bool


class ImageUsers(BaseModel):
    users: list[ImageUser]


class ConnectContainer(ContainerRef):
    network: str
    settings: EndpointSettings = Field(default_factory=EndpointSettings)


class DisconnectContainer(ContainerRef):
    network: str
    force: bool = False


class NodeFacts(BaseModel):
    """What a node is, as `docker info` shows it.

    Attributes:
        memory_bytes: All of it.
        runtimes: Name -> path; "" is davit's own.
        runtime_args: Name -> arguments, of those runtimes that get any.
        version: Of its engine.
        labels: Of its engine, ``key=value``, as daemon.json has them.
        disk_free_bytes: Below the data root, when it last reported.
        fetches_layers: It does not share the image service's disk, and has layers of its own.
    """

    node: str
    hostname: str = ""
    kernel_version: str = ""
    operating_system: str = ""
    os_version: str = ""
    architecture: str = ""
    cpus: int = 0
    memory_bytes: int = 0
    cgroup_version: str = ""
    cgroup_driver: str = "cgroupfs"
    security_options: list[str] = Field(default_factory=list)
    runtimes: dict[str, str] = Field(default_factory=dict)
    runtime_args: dict[str, list[str]] = Field(default_factory=dict)
    default_runtime: str = ""
    storage_driver: str = "overlay2"
    features: dict[str, bool] = Field(default_factory=dict)
    warnings: list[str] = Field(default_factory=list)
    init_path: str = ""
    fetches_layers: bool = False
    ready: bool = True
    seen_at: str = ""
    labels: list[str] = Field(default_factory=list)
    version: str = ""
    disk_free_bytes: int = 0


class SystemInfo(BaseModel):
    containers: int
    running: int
    paused: int
    stopped: int
    nodes: list[NodeFacts]


CREATE = Contract("davit.control.container.create", CreateContainer, CreatedContainer, deadline_s=60)
START = Contract("davit.control.container.start", StartContainer, Empty, deadline_s=120)
STOP = Contract("davit.control.container.stop", StopContainer, Empty, deadline_s=None, frees=True)
RESTART = Contract("davit.control.container.restart", StopContainer, Empty, deadline_s=None)
KILL = Contract("davit.control.container.kill", KillContainer, Empty, deadline_s=30, frees=True)
PAUSE = Contract("davit.control.container.pause", ContainerRef, Empty, deadline_s=30)
UNPAUSE = Contract("davit.control.container.unpause", ContainerRef, Empty, deadline_s=30)
RENAME = Contract("davit.control.container.rename", RenameContainer, Empty)
UPDATE = Contract("davit.control.container.update", UpdateContainer, Warnings, deadline_s=30)
WAIT = Contract("davit.control.container.wait", WaitContainer, WaitResult, deadline_s=15, idempotent=True)
REMOVE = Contract("davit.control.container.remove", RemoveContainer, Empty, deadline_s=120, frees=True)
INSPECT = Contract("davit.control.container.inspect", InspectContainer, Container, idempotent=True)
LIST = Contract("davit.control.container.list", ListContainers, ContainerPage, idempotent=True)
RESIZE = Contract("davit.control.container.resize", ResizeContainer, Empty, idempotent=True)
TOP = Contract("davit.control.container.top", Top, TopResult, idempotent=True)
STATS = Contract("davit.control.container.stats", Stats, StatsResult, idempotent=True)
LOGS = Contract("davit.control.container.logs", Logs, AttachInfo)
ATTACH = Contract("davit.control.container.attach", Attach, AttachInfo)
DETACHED = Contract("davit.control.container.detached", Detached, Empty)
STAT_PATH = Contract("davit.control.container.stat", ArchivePath, PathStat, deadline_s=30, idempotent=True)
GET_ARCHIVE = Contract("davit.control.container.getarchive", GetArchive, PathStat, deadline_s=30)
PUT_ARCHIVE = Contract("davit.control.container.putarchive", PutArchive, Empty, deadline_s=3600)
EXPORT = Contract("davit.control.container.export", Export, Empty, deadline_s=30)
CHANGES = Contract("davit.control.container.changes", ContainerRef, Changes, deadline_s=60, idempotent=True)
COMMIT = Contract("davit.control.container.commit", Commit, CommittedImage, deadline_s=3600)
PRUNE = Contract("davit.control.container.prune", Prune, Pruned, deadline_s=600, frees=True)
CONNECT = Contract("davit.control.container.connect", ConnectContainer, Empty, deadline_s=30)
DISCONNECT = Contract("davit.control.container.disconnect", DisconnectContainer, Empty, deadline_s=30)
USING_IMAGE = Contract("davit.control.container.using", UsingImage, ImageUsers, idempotent=True)
EXEC_CREATE = Contract("davit.control.exec.create", CreateExec, ExecId)
EXEC_START = Contract("davit.control.exec.start", StartExec, Empty, deadline_s=60)
EXEC_INSPECT = Contract("davit.control.exec.inspect", ExecRef, Exec, idempotent=True)
EXEC_RESIZE = Contract("davit.control.exec.resize", ResizeExec, Empty, idempotent=True)
INFO = Contract("davit.control.system.info", Empty, SystemInfo, idempotent=True)
