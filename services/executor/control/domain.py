"""A container's record and what may happen to it. Pure: no clock, no I/O. `LEGAL` says what may come after what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, Field

from shared.contracts.containers import Container, ContainerSummary, Health, HealthLogEntry, Status
from shared.contracts.docker import ContainerConfig, EndpointSettings, PortMap
from shared.contracts.networks import Attachment, Joined
from shared.contracts.node import ContainerOrder, ContainerReport, ExitRecord, OrderedMount
from shared.docker.moments import rfc3339
from shared.errors import Conflict, DavitError, Forbidden
from shared.events.record import DomainEvent

LEGAL: dict[Status, frozenset[Status]] = {
    "created": frozenset({"running", "removing"}),
    # running -> running: started again by policy, and the exit between the two was never heard of
    "running": frozenset({"running", "paused", "restarting", "exited", "dead"}),
    "paused": frozenset({"running", "restarting", "exited", "dead"}),
    "restarting": frozenset({"running", "restarting", "exited", "dead"}),
    "exited": frozenset({"running", "removing"}),
    "removing": frozenset(),
    "dead": frozenset({"removing"}),
}
HEALTH_LOG_LENGTH = 5
DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ALIVE: frozenset[Status] = frozenset({"running", "paused", "restarting"})


class Record(BaseModel):
    """A container as control keeps it.

    Attributes:
        version: Grows with every write; not part of the document.
        requested_networks: What the client asked of each network, by the network's reference.
        exits: Number of exits seen; a waiter's ticket for "the next one".
        last_exit_ns: finished_at of the latest exit applied: a repeated report changes nothing.
        remove_volumes: For a removal that has begun, or will with the exit: whether it takes anonymous volumes along.
        doomed_until_ns: An exit until then begins the removal: it was killed to be removed.
        holding: The network service may keep endpoints for it; not part of the document.
        start_key: The wish that led to the latest start, or attempt at one.
        start_failure: Why that attempt failed, as an error's wire form; None when it did not.
        links: Ids of the containers that it is linked to on the default bridge, by alias.
        link_env: What its environment tells of them at this start; not part of the document.
        kept_until_ns: An exit until then is the middle of a restart by the user, and removes nothing (``--rm``).
    """

    container: Container
    created_ns: int
    version: int = Field(default=1, exclude=True)
    holding: bool = Field(default=False, exclude=True)
    mounts: list[OrderedMount] = Field(default_factory=list)
    hostname: str = ""
    image_name: str = ""
    requested_networks: dict[str, EndpointSettings] = Field(default_factory=dict)
    attachments: list[Attachment] = Field(default_factory=list)
    log_driver: str = "json-file"
    log_options: dict[str, str] = Field(default_factory=dict)
    exits: int = 0
    last_exit_ns: int = 0
    started_ns: int = 0
    remove_volumes: bool = False
    doomed_until_ns: int = 0
    start_key: str = ""
    start_failure: dict[str, Any] | None = None
    kept_until_ns: int = 0
    links: dict[str, str] = Field(default_factory=dict)
    link_env: list[str] = Field(default_factory=list, exclude=True)

    @property
    def id(self) -> str:
        return self.container.id

    @property
    def name(self) -> str:
        return self.container.name

    @property
    def status(self) -> Status:
        return self.container.state.status

    @property
    def alive(self) -> bool:
        return self.status in ALIVE

    @property
    def generation(self) -> int:
        return self.container.generation

    @property
    def node(self) -> str:
        return self.container.node

    @property
    def auto_remove(self) -> bool:
        return self.container.host_config.auto_remove

    def become(self, status: Status) -> None:
        """Raises Conflict for a transition that is not legal."""
        state = self.container.state
        if status not in LEGAL[state.status]:
            raise Conflict(f"container {self.id} is {state.status}: it cannot become {status}")
        state.status = status
        state.running = status in ALIVE
        state.paused = status == "paused"
        state.restarting = status == "restarting"

    def take(self, joined: Joined | None) -> None:
        """What the network service gave for a start; None for a container without networks of its own."""
        self.container.sandbox_id = self.id
        if joined is not None:
            self.attachments = joined.attachments
            self.container.networks = joined.settings
            if self.links and "bridge" in joined.settings:  # these are the container's, not its endpoint's
                joined.settings["bridge"].links = []
            self.container.ports = joined.ports

    def started(self, pid: int, started_ns: int) -> DomainEvent:
        """The process runs."""
        self.become("running")
        state = self.container.state
        state.pid = pid
        state.started_at = rfc3339(started_ns)
        state.exit_code = 0
        state.error = ""
        state.oom_killed = False
        self.started_ns = started_ns
        self.start_failure = None
        self.kept_until_ns = 0
        self.holding = bool(self.requested_networks)
        check = self.container.config.healthcheck
        if check is not None and check.test[:1] in (["CMD"], ["CMD-SHELL"]):
            # what earlier runs' probes said stays to be read
            state.health = Health(status="starting", log=state.health.log if state.health is not None else [])
        return self.event("start")

    def restart_cause(self) -> str:
        """Why its node starts it again, before that start is applied."""
        policy, state = self.container.host_config.restart_policy, self.container.state
        return f"restart policy {policy.name}: it ended with exit code {state.exit_code}"

    def ended(self, exit_: ExitRecord, *, restarting: bool) -> DomainEvent | None:
        """Apply an exit; None when it has been applied before or belongs to an older start."""
        if exit_.generation != self.generation or exit_.finished_at_ns <= self.last_exit_ns:
            return None
        if self.alive and exit_.finished_at_ns <= self.started_ns:
            # Told late: it has been started again by policy since, and that is known.
            self.last_exit_ns = exit_.finished_at_ns
            self.exits += 1
            return self._died(exit_)
        self.become("restarting" if restarting else "exited")
        state = self.container.state
        state.pid = 0
        state.exit_code = exit_.exit_code
        state.oom_killed = exit_.oom_killed
        state.error = exit_.error
        state.finished_at = rfc3339(exit_.finished_at_ns)
        self.last_exit_ns = exit_.finished_at_ns
        self.exits += 1
        if state.health is not None and not restarting:
            state.health.status = "unhealthy"
        if not restarting:
            self._forget_endpoints()
        return self._died(exit_)

    def _died(self, exit_: ExitRecord) -> DomainEvent:
        seconds = max(0, exit_.finished_at_ns - exit_.started_at_ns) // 1_000_000_000
        return self.event("die", exitCode=str(exit_.exit_code), execDuration=str(seconds))

    def removes_itself(self, exit_: ExitRecord) -> bool:
        """Whether this exit, applied before, is also the beginning of the removal."""
        if self.alive:
            return False
        kept = exit_.finished_at_ns <= self.kept_until_ns
        return (self.auto_remove and not kept) or exit_.finished_at_ns <= self.doomed_until_ns

    def rest(self) -> None:
        """A container that waited for its next restart will not get one."""
        self.become("exited")
        self._forget_endpoints()

    def remove(self, *, volumes: bool) -> None:
        """A removal begins; from here on it is finished, whoever finishes it. Raises Conflict while it is alive."""
        self.become("removing")
        self.remove_volumes = volumes

    def _forget_endpoints(self) -> None:
        """Addresses are given back at the end; what was asked for stays."""
        self.attachments = []
        self.container.ports = {}
        self.container.sandbox_id = ""
        for name, settings in self.container.networks.items():
            self.container.networks[name] = settings.model_copy(
                update={
                    "endpoint_id": "",
                    "gateway": "",
                    "ip_address": "",
                    "ip_prefix_len": 0,
                    "ipv6_gateway": "",
                    "global_ipv6_address": "",
                    "global_ipv6_prefix_len": 0,
                    "mac_address": "",
                }
            )

    def failed_to_start(self, error: DavitError, exit_code: int) -> None:
        """Status and times stay: it never ran, so this is no exit for those who wait for one."""
        state = self.container.state
        state.error = error.message
        state.exit_code = exit_code
        self.start_failure = error.to_wire()
        self.kept_until_ns = 0
        self.holding = bool(self.requested_networks)
        self._forget_endpoints()

    def health_reported(self, report: ContainerReport) -> bool:
        """Apply a probe; True when the status changed."""
        state = self.container.state
        if report.generation != self.generation or not state.running:
            return False
        health = state.health or Health(status="starting")
        changed = health.status != report.health_status
        log: list[HealthLogEntry] = health.log + ([report.health_entry] if report.health_entry else [])
        state.health = Health(
            status=report.health_status, failing_streak=report.failing_streak, log=log[-HEALTH_LOG_LENGTH:]
        )
        return changed

    def check_node(self, node: str) -> None:
        """Raises Forbidden: it is not on that node, which therefore has nothing to say of it."""
        if node != self.node:
            raise Forbidden(f"container {self.id} is not on node {node}", node=node)

    def event(self, action: str, **attributes: str) -> DomainEvent:
        """An event about this container, with the attributes Docker gives it."""
        return DomainEvent(
            type="container",
            action=action,
            actor_id=self.id,
            attributes=self.container.config.labels
            | {"image": self.container.config.image, "name": self.name}
            | attributes,
            node=self.container.node,
        )

    def order(self) -> ContainerOrder:
        """What the node needs to run it."""
        container = self.container
        mode = container.host_config.network_mode
        config = container.config.model_copy(update={"env": final_env(container.config, self.hostname, self.link_env)})
        return ContainerOrder(
            id=self.id,
            name=self.name,
            generation=self.generation,
            start_key=self.start_key,
            layers=container.layers,
            config=config,
            host_config=container.host_config,
            path=container.path,
            args=container.args,
            hostname=self.hostname,
            domainname=config.domainname,
            network_mode=mode if mode in ("host", "none") or mode.startswith("container:") else "networks",
            attachments=self.attachments,
            mounts=self.mounts,
            log_driver=self.log_driver,
            log_options=self.log_options,
            image_id=container.image_id,
            image_name=self.image_name,
            runtime=container.host_config.runtime,
        )

    def summary(self) -> ContainerSummary:
        """The line of a list; its status text depends on the time and is made when it is read."""
        container = self.container
        command = " ".join(_quoted(word) for word in [container.path, *container.args])
        health = container.state.health
        exposed: PortMap = {port: [] for port in container.config.exposed_ports if port not in container.ports}
        return ContainerSummary(
            id=self.id,
            name=self.name,
            image=container.config.image,
            image_id=container.image_id,
            command=command,
            created_unix=self.created_ns // 1_000_000_000,
            status=container.state.status,
            status_text=status_code(self),
            labels=container.config.labels,
            network_mode=container.host_config.network_mode,
            annotations=container.host_config.annotations,
            mounts=container.mounts,
            networks=container.networks,
            links=self.links,
            ports=container.ports | (exposed if container.state.running else {}),
            health=health.status if health is not None and container.state.running else "",
            failing_streak=health.failing_streak if health is not None and container.state.running else 0,
        )


def final_env(config: ContainerConfig, hostname: str, linked: Sequence[str] = ()) -> list[str]:
    """What the process finds: PATH and HOSTNAME first, TERM with a terminal, links, then the configured ones."""
    names = {entry.partition("=")[0] for entry in config.env}
    base = [DEFAULT_PATH] if "PATH" not in names else []
    if "HOSTNAME" not in names:
        base.append(f"HOSTNAME={hostname}")
    if config.tty and "TERM" not in names:
        base.append("TERM=xterm")
    return base + [entry for entry in linked if entry.partition("=")[0] not in names] + config.env


def _quoted(word: str) -> str:
    return f"'{word}'" if " " in word else word


# What status_text is made from, stored in its place: "exit code|started ns|finished ns|health".
def status_code(record: Record) -> str:
    state = record.container.state
    health = state.health.status if state.health is not None else ""
    return f"{state.exit_code}|{record.started_ns}|{record.last_exit_ns}|{health}"
