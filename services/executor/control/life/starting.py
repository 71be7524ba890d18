"""Start: endpoints, one order to the node, one commit.

::

    client      control                network     node
      │ start ───►│ join ────────────────►│          │
      │           │◄──────────── endpoints│          │
      │           │ order (generation) ─────────────►│  the same generation again answers the same
      │           │◄──────────────── pid, start time │
      │           │ commit: running, event `start`
      │◄──────────│

A crash before the commit leaves a process whose generation is newer than the record's: the next inventory records it.
"""

from __future__ import annotations

import logging

from services.executor.control.domain import Record
from services.executor.control.life import links
from services.executor.control.life.endpoints import Endpoints
from services.executor.control.life.removing import Removing
from services.executor.control.peers import Peers
from services.executor.control.state.records import Records
from shared.contracts.networks import HostPort, Joined
from shared.contracts.node import Started
from shared.errors import (
    Conflict,
    DavitError,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    NotModified,
    Unavailable,
    from_wire,
)
from shared.events.record import DomainEvent
from shared.failpoints import holdpoint

log = logging.getLogger(__name__)

START_FAILED = "failed to create task for container: "
FAILED_EXIT_CODE = 128
# What a node says when somebody else on it has a port, and how many ports are tried (the reference engine's number).
FOREIGN_LISTENER = "foreign_listener"
PORT_ATTEMPTS = 10
# Endpoints of a container that does not run and has not changed for longer than this (two times over, to be safe
# against clocks) may be released by the reconciler: a start announces itself in the record then.
UNTOUCHED_NS = 60 * 1_000_000_000


class Starting:
    """Starts containers."""

    def __init__(self, records: Records, peers: Peers, endpoints: Endpoints, removing: Removing) -> None:
        self._records = records
        self._peers = peers
        self._endpoints = endpoints
        self._removing = removing

    async def start(self, ref: str, key: str = "") -> None:
        """Start it, once per key.

        Raises:
            NotModified: It runs.
            Conflict: It is paused or being removed.
        """
        record = await self._records.find_settled(ref)
        if known(record, key):
            return
        if record.status == "paused":
            raise Conflict("cannot start a paused container, try unpause instead")
        if record.alive:
            raise NotModified(f"container {record.id} is running already")
        if record.status not in ("created", "exited"):
            raise Conflict("container is marked for removal and cannot be started")
        await self.launch(record, key)

    async def launch(self, record: Record, key: str, *more: str) -> Record:
        """Start a container that does not run, and record events `more` after ``start``.

        Raises:
            DavitError: Why it did not start; unless the outcome is unknown, the record says so too.
        """
        with self._records.starting(record.id):
            return await self._launch(record, key, more)

    async def _launch(self, record: Record, key: str, more: tuple[str, ...]) -> Record:
        await self._endpoints.settled(record.id)
        self._endpoints.forget(record.id)
        record = await self._announced(record)
        record.container.generation += 1
        record.container.restart_count = 0
        record.start_key = key
        try:
            await self._resolve_network_container(record)
            record.link_env = await self._linked(record)
            joined, started = await self._order(record)
        except (Unavailable, DeadlineExceeded):
            raise  # what became of it is for the inventory to find out
        except DavitError as error:
            refusal = _in_dockers_words(error)
            await self._failed(record, refusal)
            raise refusal from error
        return await self._commit(record, joined, started, more)

    async def _order(self, record: Record) -> tuple[Joined | None, Started]:
        """Endpoints and the node's order. A port that was ours to choose is chosen anew when somebody else has it."""
        avoid: list[HostPort] = []
        refusal: Conflict | None = None
        while True:
            try:
                joined = await self._peers.join(record, record.generation, avoid) if record.requested_networks else None
            except Conflict as error:
                raise refusal or error from error  # no other port will do: what the node said is the reason
            record.take(joined)
            await holdpoint("control.start.before_order")
            try:
                return joined, await self._peers.start(record)
            except Conflict as error:
                if error.detail.get("reason") != FOREIGN_LISTENER or len(avoid) + 1 >= PORT_ATTEMPTS:
                    raise
                refusal = error
                avoid.append(HostPort(protocol=error.detail["protocol"], port=error.detail["host_port"]))

    async def _announced(self, record: Record) -> Record:
        """Touch a record that has not changed for long, so that nobody takes its endpoints for left over."""
        now = self._records.clock.time_ns()
        if not record.requested_networks:
            return record
        if record.holding and now - max(record.created_ns, record.last_exit_ns) < UNTOUCHED_NS:
            return record

        def touch(current: Record) -> list[DomainEvent]:
            current.holding = True
            return []

        return await self._records.change(record, touch)

    async def _resolve_network_container(self, record: Record) -> None:
        """A container whose network is shared must be there and run; its host name is shared as well."""
        mode = record.container.host_config.network_mode
        if not mode.startswith("container:"):
            return
        other = await self._records.find(mode.partition(":")[2])
        if other.status not in ("running", "paused"):
            raise Conflict(f"cannot join network of a non running container: {other.id}")
        record.container.host_config.network_mode = f"container:{other.id}"
        record.hostname = record.container.config.hostname = other.hostname

    async def _linked(self, record: Record) -> list[str]:
        """The variables of a container's links. Raises InvalidArgument when one leads to nobody that runs."""
        found: list[str] = []
        for alias, target_id in sorted(record.links.items()):
            target = links.check_linkable(record, alias, await self._records.get(target_id), target_id)
            found += links.environment(record.name, alias, target)
        return found

    async def _commit(self, record: Record, joined: Joined | None, started: Started, more: tuple[str, ...]) -> Record:
        generation = record.generation
        wanted = record.container

        def apply(current: Record) -> list[DomainEvent]:
            if current.generation >= generation and current.started_ns >= started.started_at_ns:
                raise NotModified(f"container {current.id} is running already")
            current.container.generation = generation
            current.start_key = record.start_key
            current.container.restart_count = 0
            current.container.host_config.network_mode = wanted.host_config.network_mode
            current.container.config.hostname, current.hostname = wanted.config.hostname, record.hostname
            current.take(joined)
            return [current.started(started.pid, started.started_at_ns), *(current.event(action) for action in more)]

        await holdpoint("control.start.before_commit")
        try:
            return await self._records.change(record, apply)
        except (Conflict, NotFound):
            # Removed while it was being started: what was started must not stay.
            await self._undo(record)
            raise

    async def _undo(self, record: Record) -> None:
        try:
            await self._peers.stop(record, 9, 0)
            if record.requested_networks:
                await self._peers.leave(record.id)
        except DavitError as error:
            log.warning("start of %s not undone yet: %s", record.id[:12], error)

    async def _failed(self, record: Record, error: DavitError) -> None:
        code = int(error.detail.get("exit_code", FAILED_EXIT_CODE))
        generation = record.generation

        def apply(current: Record) -> list[DomainEvent]:
            if current.alive:
                raise NotModified("somebody else has started it")
            current.container.generation = generation
            current.start_key = record.start_key
            current.failed_to_start(error, code)
            return []

        try:
            current = await self._records.change(record, apply)
        except (NotModified, NotFound):
            return
        self._endpoints.let_go(current)
        await self._endpoints.settled(current.id)
        if current.auto_remove:
            await self._removing.remove(current, volumes=True)


def known(record: Record, key: str) -> bool:
    """Whether a wish with this key has been carried out. Raises what came of it when it failed."""
    if not key or record.start_key != key:
        return False
    if record.start_failure is not None:
        raise from_wire(record.start_failure)
    return True


def _in_dockers_words(error: DavitError) -> DavitError:
    """The node's refusal in the words from which clients derive 125, 126 and 127."""
    if "exit_code" not in error.detail or error.message.startswith(START_FAILED):
        return error
    text = f"{START_FAILED}failed to create shim task: OCI runtime create failed: {error.message}: unknown"
    return InvalidArgument(text, **error.detail)
