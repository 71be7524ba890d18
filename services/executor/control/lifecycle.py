"""Create, start, stop, remove: the verbs that move a container from one state to the next.

Each verb: read the record, ask the others, commit change and event in one transaction, announce. No lock is held
across a call to another process; a record that changed meanwhile is read again (`_change`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from services.executor.control import creation, sql
from services.executor.control.domain import ALIVE, Record
from services.executor.control.mountspec import PlannedMount, plan_mounts
from services.executor.control.names import checked_name, generated_name, new_id
from services.executor.control.peers import Peers
from services.executor.control.signals import parse_signal
from services.executor.control.validate import Subject, check
from services.executor.control.waiting import Changes
from shared.clock import Clock
from shared.config import EngineConfig
from shared.contracts import node
from shared.contracts.containers import CreateContainer, CreatedContainer, NodeFacts, RemoveContainer, StopContainer
from shared.contracts.images import ResolvedImage
from shared.contracts.networks import JoinNetworks
from shared.contracts.node import ContainerId, ExitRecord, PrepareContainer, RemoveOrder, SignalOrder, StopOrder
from shared.contracts.volumes import Volume
from shared.database import Database
from shared.errors import Conflict, DavitError, InvalidArgument, NotFound, NotModified, Unavailable

log = logging.getLogger(__name__)

ATTEMPTS = 8
DEFAULT_STOP_TIMEOUT_S = 10
START_COMMIT_S = 2.0
BUILT_IN_RUNTIMES = frozenset({"davit", "io.containerd.runc.v2", "runc"})
START_FAILED = "failed to create task for container: "


class Lifecycle:
    """The verbs. One instance per process; state lives in the database."""

    def __init__(
        self,
        database: Database,
        peers: Peers,
        changes: Changes,
        config: EngineConfig,
        node_name: str,
        clock: Clock,
        spawn: Callable[..., Any],
    ) -> None:
        self.database = database
        self.peers = peers
        self.changes = changes
        self._config = config
        self.node_name = node_name
        self._clock = clock
        self._spawn = spawn
        self._leaving: dict[str, asyncio.Task[None]] = {}
        self._facts: NodeFacts | None = None

    # Reading and changing records

    async def find(self, ref: str) -> Record:
        async with self.database.read() as reader:
            return await sql.find(reader, ref)

    async def change(self, record: Record, apply: Callable[[Record], Any], *actions: str, **attributes: str) -> Record:
        """Apply a change to a record and commit it with its events; on a record that changed meanwhile, anew.

        Args:
            apply: Changes the record in place; raises to refuse.
            actions: Events to record, in order, each with `attributes`.
        """
        for attempt in range(ATTEMPTS):
            async with self.database.transaction() as tx:
                current = record if attempt == 0 else await sql.by_id(tx, record.id)
                if current is None:
                    raise NotFound(f"No such container: {record.id}")
                apply(current)
                try:
                    await sql.save(tx, current)
                except Conflict:
                    continue
                for action in actions:
                    tx.emit(current.event(action, **attributes))
            await self.changes.announce(record.id)
            return current
        raise Conflict(f"container {record.id} is being changed by others")

    async def note(self, record: Record, action: str, **attributes: str) -> None:
        """Record an event that changes nothing."""
        async with self.database.transaction() as tx:
            tx.emit(record.event(action, **attributes))

    # Create

    async def facts(self) -> NodeFacts:
        if self._facts is None:
            async with self.database.read() as reader:
                known = await sql.all_nodes(reader)
            if not known:
                raise Unavailable("no node has reported yet; try again in a moment")
            self._facts = known[0][0]
        return self._facts

    async def create(self, request: CreateContainer) -> CreatedContainer:
        name = checked_name(request.name) if request.name else ""
        if not request.config.image:
            raise InvalidArgument("no image specified", field="Image")
        facts = await self.facts()
        image = await self.peers.image(request.config.image, request.platform)
        merged = creation.merge_config(request.config, image.config)
        host = creation.with_defaults(request.host_config, self._config)
        subject = Subject(request.config, host, facts.cpus, BUILT_IN_RUNTIMES | frozenset(self._config.runtimes))
        check(subject)
        creation.command(merged)
        await self._resolve_shared(host)
        planned = plan_mounts(merged, host, await self._inherited(host.volumes_from))
        container_id = new_id()
        volumes = await self._acquire(container_id, planned)
        try:
            record = await self._store(request, image, name, container_id, planned, volumes, merged=merged, host=host)
        except BaseException:
            if volumes:
                await self.peers.release_volumes(container_id, remove_anonymous=True)
            raise
        return CreatedContainer(id=record.id, warnings=self._warnings(host, facts))

    def _warnings(self, host: Any, facts: NodeFacts) -> list[str]:
        found = []
        if host.memory and not facts.features.get("swap_limit", True):
            found.append(
                "Your kernel does not support swap limit capabilities or the cgroup is not mounted. Memory limited without swap."
            )
        if host.oom_kill_disable and not host.memory:
            found.append(
                "OOM killer is disabled for the container, but no memory limit is set, this can result in the system running out of resources."
            )
        return found

    async def _resolve_shared(self, host: Any) -> None:
        """``container:<name>`` in modes becomes ``container:<full id>``."""
        for attribute in ("network_mode", "pid_mode"):
            mode = getattr(host, attribute)
            if mode.startswith("container:"):
                other = await self.find(mode.partition(":")[2])
                setattr(host, attribute, f"container:{other.id}")

    async def _inherited(self, sources: list[str]) -> list[PlannedMount]:
        pairs = []
        for source in sources:
            ref, _, mode = source.partition(":")
            if mode not in ("", "ro", "rw"):
                raise InvalidArgument(f"invalid mode: {mode}", field="HostConfig.VolumesFrom")
            pairs.append((await self.find(ref), mode == "ro"))
        return creation.inherited_mounts(pairs)

    async def _acquire(self, container_id: str, planned: list[PlannedMount]) -> dict[int, Volume]:
        wanted = [(position, item.volume) for position, item in enumerate(planned) if item.volume is not None]
        if not wanted:
            return {}
        found = await self.peers.acquire(container_id, self.node_name, [volume for _, volume in wanted])
        return dict(zip((position for position, _ in wanted), found, strict=True))

    async def _store(
        self,
        request: CreateContainer,
        image: ResolvedImage,
        name: str,
        container_id: str,
        planned: list[PlannedMount],
        volumes: dict[int, Volume],
        **more: Any,
    ) -> Record:
        for attempt in range(ATTEMPTS):
            record = creation.new_record(
                request,
                image,
                self._config,
                name=name or generated_name(attempt),
                container_id=container_id,
                node=self.node_name,
                planned=planned,
                volumes=volumes,
                now_ns=self._clock.time_ns(),
                **more,
            )
            await self._check_on_node(record)
            try:
                async with self.database.transaction() as tx:
                    await sql.insert(tx, record)
                    tx.emit(record.event("create"))
            except Conflict:
                if name:
                    raise
                continue
            return record
        raise Conflict("no free name was found for the container")

    async def _check_on_node(self, record: Record) -> None:
        """Binds that must exist are the node's to know; Docker refuses them at create."""
        if any(mount.type == "bind" and not mount.create_source for mount in record.mounts):
            await self.peers.bus.request(
                node.PREPARE, PrepareContainer(order=record.order()), node=record.container.node
            )

    # Start

    async def start(self, ref: str) -> None:
        record = await self.find(ref)
        if record.status == "paused":
            raise Conflict("cannot start a paused container, try unpause instead")
        if record.status in ("running", "restarting"):
            raise NotModified(f"container {record.id} is running already")
        if record.removing:
            raise Conflict("container is marked for removal and cannot be started")
        await self.launch(record, "start")

    async def launch(self, record: Record, *actions: str) -> Record:
        """Join networks, order the node, commit. The generation makes a repeated order harmless."""
        await self._left(record.id)
        record.container.generation += 1
        record.starting = True
        try:
            await self._join(record)
            order = record.order()
            started = await self.peers.start(record.container.node, order)
        except DavitError as error:
            await self._start_failed(record, error)
            raise self._docker_error(error) from error
        container, attachments = record.container, record.attachments

        def apply(current: Record) -> None:
            current.container.generation = container.generation
            current.container.networks = container.networks
            current.container.ports = container.ports
            current.container.sandbox_id = container.sandbox_id
            current.attachments = attachments
            current.started(started.pid, started.started_at_ns)

        return await self.change(record, apply, *actions)

    async def _join(self, record: Record) -> None:
        if not record.requested_networks:
            record.container.sandbox_id = record.id
            return
        host, config = record.container.host_config, record.container.config
        joined = await self.peers.join(
            JoinNetworks(
                container_id=record.id,
                container_name=record.name,
                hostname=record.hostname,
                node=record.container.node,
                networks=record.requested_networks,
                ports=host.port_bindings,
                exposed=list(config.exposed_ports),
                publish_all=host.publish_all_ports,
                primary=host.network_mode,
            )
        )
        record.attachments = joined.attachments
        record.container.networks = joined.settings
        record.container.ports = joined.ports
        record.container.sandbox_id = record.id

    async def _start_failed(self, record: Record, error: DavitError) -> None:
        if record.requested_networks:
            try:
                await self.peers.leave(record.id)
            except DavitError as problem:
                log.warning("endpoints of %s not released yet: %s", record.id[:12], problem)
        code = int(error.detail.get("exit_code", 128))
        text = self._docker_error(error).message
        generation = record.container.generation

        def apply(current: Record) -> None:
            current.container.generation = generation
            current.failed_to_start(text, code)

        try:
            current = await self.change(record, apply, "die", exitCode=str(code), execDuration="0")
        except NotFound:
            return
        if current.container.host_config.auto_remove:
            await self.remove_record(current, volumes=True)

    def _docker_error(self, error: DavitError) -> DavitError:
        """The node's refusal in the words from which clients derive 125, 126 and 127."""
        if "exit_code" not in error.detail:
            return error
        if error.message.startswith(START_FAILED):
            return error
        text = f"{START_FAILED}failed to create shim task: OCI runtime create failed: {error.message}: unknown"
        return InvalidArgument(text, **error.detail)

    # Exits

    async def exited(self, container_id: str, exit_: ExitRecord, *, restarting: bool, restart_count: int) -> None:
        """Apply an exit, whoever reports it and however often; then give back what it held."""
        record = await self._once_started(container_id, exit_.generation)
        if record is None:
            return

        def apply(current: Record) -> None:
            if exit_.generation > current.container.generation:
                # Whoever ordered this start was killed before it could commit it.
                current.container.generation = exit_.generation
                current.started(0, exit_.started_at_ns)
            if not current.ended(exit_, restarting=restarting):
                raise NotModified("this exit is known")
            current.container.restart_count = restart_count

        duration = max(0, exit_.finished_at_ns - exit_.started_at_ns) // 1_000_000_000
        try:
            record = await self.change(record, apply, "die", exitCode=str(exit_.exit_code), execDuration=str(duration))
        except (NotModified, NotFound):
            return
        if restarting:
            return
        self._leaving[container_id] = self._spawn(self._leave(record), name=f"leave {container_id[:12]}")
        if record.container.host_config.auto_remove:
            self._spawn(self._auto_remove(record), name=f"auto-remove {container_id[:12]}")

    async def _once_started(self, container_id: str, generation: int) -> Record | None:
        """The record, once the start of this generation is committed: a short-lived process ends before that."""
        deadline = self._clock.monotonic() + START_COMMIT_S
        with self.changes.watch(container_id) as changed:
            while True:
                changed.clear()
                async with self.database.read() as reader:
                    record = await sql.by_id(reader, container_id)
                patience = deadline - self._clock.monotonic()
                if record is None or record.container.generation >= generation or patience <= 0:
                    return record
                try:
                    await asyncio.wait_for(changed.wait(), patience)
                except TimeoutError:
                    continue

    async def _leave(self, record: Record) -> None:
        try:
            if record.requested_networks:
                await self.peers.leave(record.id)
        except DavitError as error:
            log.warning("endpoints of %s not released yet: %s", record.id[:12], error)
        finally:
            self._leaving.pop(record.id, None)

    async def _left(self, container_id: str) -> None:
        """Wait for a release of endpoints that is under way."""
        task = self._leaving.get(container_id)
        if task is not None:
            await asyncio.wait({task})

    async def _auto_remove(self, record: Record) -> None:
        try:
            await self.remove_record(record, volumes=True)
        except NotFound:
            return
        except DavitError as error:  # the reconciler comes back to it
            log.warning("container %s not removed yet: %s", record.id[:12], error)

    # Stop and kill

    def _stop_order(self, record: Record, request: StopContainer) -> StopOrder:
        config = record.container.config
        signal = parse_signal(request.signal or config.stop_signal or "SIGTERM")
        timeout = request.timeout_s
        if timeout is None:
            timeout = config.stop_timeout if config.stop_timeout is not None else DEFAULT_STOP_TIMEOUT_S
        return StopOrder(id=record.id, signal=signal, timeout_s=timeout)

    async def stop_record(self, record: Record, request: StopContainer) -> None:
        """Stop a container that is alive; returns when its exit is committed."""
        order = self._stop_order(record, request)
        await self.note(record, "kill", signal=str(order.signal))
        exit_ = await self.peers.bus.request(node.STOP, order, node=record.container.node)
        await self.exited(record.id, exit_, restarting=False, restart_count=record.container.restart_count)
        await self._left(record.id)

    async def stop(self, request: StopContainer) -> None:
        record = await self.find(request.ref)
        if not record.alive:
            raise NotModified(f"container {record.id} is stopped already")
        await self.stop_record(record, request)
        await self._note_if_there(record, "stop")

    async def _note_if_there(self, record: Record, action: str, **attributes: str) -> None:
        await self.note(record, action, **attributes)

    async def restart(self, request: StopContainer) -> None:
        record = await self.find(request.ref)
        if record.alive:
            if record.container.host_config.auto_remove:
                await self._without_auto_remove(record, request)
            else:
                await self.stop_record(record, request)
            await self.note(record, "stop")
        record = await self.find(record.id)
        await self.launch(record, "start", "restart")

    async def _without_auto_remove(self, record: Record, request: StopContainer) -> None:
        """A restart of a ``--rm`` container keeps it: the stop in the middle is not its end."""

        def off(current: Record) -> None:
            current.container.host_config.auto_remove = False

        def on(current: Record) -> None:
            current.container.host_config.auto_remove = True

        record = await self.change(record, off)
        await self.stop_record(record, request)
        await self.change(await self.find(record.id), on)

    async def kill(self, ref: str, signal_text: str) -> None:
        record = await self.find(ref)
        number = parse_signal(signal_text or "SIGKILL")
        if not record.alive:
            raise Conflict(f"cannot kill container: {ref}: container {record.id} is not running")
        stop_signal = parse_signal(record.container.config.stop_signal or "SIGTERM")
        deliberate = number in (9, stop_signal)
        await self.note(record, "kill", signal=str(number))
        await self.peers.bus.request(
            node.SIGNAL, SignalOrder(id=record.id, signal=number, deliberate=deliberate), node=record.container.node
        )
        if number == 9:
            await self._until_dead(record.id)

    async def _until_dead(self, container_id: str, patience_s: float = 10.0) -> None:
        """Docker's kill with SIGKILL returns when the process is gone."""
        deadline = self._clock.monotonic() + patience_s
        with self.changes.watch(container_id) as changed:
            while self._clock.monotonic() < deadline:
                changed.clear()
                async with self.database.read() as reader:
                    record = await sql.by_id(reader, container_id)
                if record is None or record.status not in ALIVE:
                    return
                try:
                    await asyncio.wait_for(changed.wait(), 1.0)
                except TimeoutError:
                    continue

    async def pause(self, ref: str) -> None:
        record = await self.find(ref)
        if record.status == "paused":
            raise Conflict(f"Container {record.id} is already paused")
        if record.status != "running":
            raise Conflict(f"Container {record.id} is not running")
        await self.peers.bus.request(node.PAUSE, ContainerId(id=record.id), node=record.container.node)
        await self.change(record, lambda current: current.become("paused"), "pause")

    async def unpause(self, ref: str) -> None:
        record = await self.find(ref)
        if record.status != "paused":
            raise Conflict(f"Container {record.id} is not paused")
        await self.peers.bus.request(node.UNPAUSE, ContainerId(id=record.id), node=record.container.node)
        await self.change(record, lambda current: current.become("running"), "unpause")

    # Remove

    async def remove(self, request: RemoveContainer) -> None:
        record = await self.find(request.ref)
        if request.link:
            raise InvalidArgument("removing a link alone is not supported by this engine", field="link")
        if record.alive:
            if not request.force:
                advice = "unpause and then stop" if record.status == "paused" else "stop"
                raise Conflict(
                    f'cannot remove container "/{record.name}": container is {record.status}: '
                    f"{advice} the container before removing or force remove"
                )
            await self._force_stop(record)
            record = await self.find(record.id)
        await self.remove_record(record, volumes=request.volumes)

    async def _force_stop(self, record: Record) -> None:
        try:
            await self.stop_record(record, StopContainer(ref=record.id, timeout_s=0))
        except (NotFound, Conflict) as error:
            log.info("container %s ended by itself: %s", record.id[:12], error)

    async def remove_record(self, record: Record, *, volumes: bool) -> None:
        """Remove a container that does not run: mark, clean up on the node and with the others, then forget it.

        The mark makes a removal that a crash cut short the reconciler's to finish.
        """
        if not record.removing:

            def mark(current: Record) -> None:
                if current.alive:
                    raise Conflict(f"container {current.id} runs again")
                current.removing = True
                current.remove_volumes = volumes
                current.become("removing")

            record = await self.change(record, mark)
        await self._left(record.id)
        await self.peers.bus.request(node.REMOVE, RemoveOrder(id=record.id), node=record.container.node)
        if record.attachments:
            await self.peers.leave(record.id)
        if any(mount.type == "volume" for mount in record.mounts):
            await self.peers.release_volumes(record.id, remove_anonymous=record.remove_volumes)
        async with self.database.transaction() as tx:
            current = await sql.by_id(tx, record.id)
            if current is None:
                return
            await sql.delete(tx, current, self._clock.time_ns())
            tx.emit(current.event("destroy"))
        await self.changes.announce(record.id)
