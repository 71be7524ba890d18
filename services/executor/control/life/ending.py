"""Exits, however they are learnt of; and the verbs that bring them about: stop, kill, restart, remove."""

from __future__ import annotations

import asyncio
import signal as signals

from services.executor.control.domain import Record
from services.executor.control.life.endpoints import Endpoints
from services.executor.control.life.removing import Removing
from services.executor.control.life.starting import Starting, known
from services.executor.control.peers import Peers
from services.executor.control.state.records import Apply, Records
from shared.contracts.containers import KillContainer, RemoveContainer, StopContainer
from shared.contracts.node import ExitRecord
from shared.docker.signals import parse_signal
from shared.errors import Conflict, NotFound, NotModified
from shared.events.record import DomainEvent
from shared.failpoints import failpoint, holdpoint

DEFAULT_STOP_TIMEOUT_S = 10
# How long an exit waits for the commit of its own start, which a short-lived process overtakes.
START_COMMIT_S = 2.0
KILL_PATIENCE_S = 10.0
REST_PATIENCE_S = 1.0
# How often a removal by force kills again what somebody starts again meanwhile.
FORCE_ATTEMPTS = 5
# How much longer than its stop a restart may take before an exit counts as the end of a ``--rm`` container.
KEEP_MARGIN_S = 60
FOR_EVER_S = 365 * 86400
# How long after the order to kill an exit counts as the one that was ordered.
DOOMED_NS = 60 * 1_000_000_000


class Ending:
    """Ends containers, and applies their ends."""

    def __init__(
        self, records: Records, peers: Peers, endpoints: Endpoints, removing: Removing, starting: Starting
    ) -> None:
        self._records = records
        self._peers = peers
        self._endpoints = endpoints
        self._removing = removing
        self._starting = starting

    # Exits

    async def exited(
        self, exit_: ExitRecord, *, restarting: bool = False, restart_count: int | None = None, node: str = ""
    ) -> None:
        """Apply an exit, whoever reports it and however often; then give back what the container held.

        Args:
            restarting: The node will start it again by policy.
            node: The node that reports it; empty when control itself found it out.

        Raises:
            Forbidden: The container is not on that node.
        """
        await holdpoint("control.exit.before_commit")
        record = await self._once_started(exit_)
        if record is None:
            return
        if node:
            record.check_node(node)

        def apply(current: Record) -> list[DomainEvent]:
            events = []
            if exit_.generation > current.generation and current.status in ("created", "exited"):
                # Whoever ordered this start was killed before it could commit it.
                current.container.generation, current.start_key = exit_.generation, exit_.start_key
                events.append(current.started(0, exit_.started_at_ns))
            died = current.ended(exit_, restarting=restarting)
            if died is not None:
                events.append(died)
            elif current.status == "restarting" and current.generation == exit_.generation and not restarting:
                current.rest()  # stopped between two runs
            else:
                raise NotModified("this exit is known")
            if restart_count is not None:
                current.container.restart_count = restart_count
            if current.removes_itself(exit_):
                current.remove(volumes=current.auto_remove or current.remove_volumes)
            return events

        try:
            record = await self._records.change(record, apply)
        except (NotModified, NotFound):
            return
        failpoint("control.exit.after_commit")
        if record.status == "removing":
            self._removing.finish_soon(record)
        elif not restarting:
            self._endpoints.let_go(record)

    async def _once_started(self, exit_: ExitRecord) -> Record | None:
        """The record, once the start of this generation is committed or has had time to be."""
        return await self._records.until(
            exit_.id, lambda record: record is None or record.generation >= exit_.generation, START_COMMIT_S
        )

    # Stop

    async def stop(self, request: StopContainer) -> None:
        """Raises NotModified when it does not run."""
        record = await self._records.find_settled(request.ref)
        if not record.alive:
            raise NotModified(f"container {record.id} is stopped already")
        await self._stop(record, request)
        await self._records.note(record.event("stop"))

    async def _stop(self, record: Record, request: StopContainer) -> None:
        """Stop a container that is alive; returns when its exit is committed and its endpoints are free."""
        config = record.container.config
        number = parse_signal(request.signal or config.stop_signal or "SIGTERM")
        await self.exited(await self._stopped(record, number, _timeout_s(record, request)))
        current = await self._records.get(record.id)
        if current is not None and not current.alive:
            await self._endpoints.release(current)

    async def _stopped(self, record: Record, number: int, timeout_s: int) -> ExitRecord:
        """Order the stop; the events say what was sent: the signal, and SIGKILL after the timeout."""
        await self._records.note(record.event("kill", signal=str(int(number))))
        if timeout_s == 0 and number != signals.SIGKILL:
            await self._records.note(record.event("kill", signal=str(int(signals.SIGKILL))))
        order = asyncio.ensure_future(self._peers.stop(record, int(number), timeout_s))
        try:
            if timeout_s > 0:
                await asyncio.wait({order}, timeout=timeout_s)
                if not order.done():
                    await self._records.note(record.event("kill", signal=str(int(signals.SIGKILL))))
            return await order
        finally:
            order.cancel()

    # Kill

    async def kill(self, request: KillContainer) -> None:
        """Send a signal. After SIGKILL, returns when the process is gone.

        Between two runs there is no process: what ends then, with any signal, is the waiting for the next.
        """
        record = await self._records.find_settled(request.ref)
        number = parse_signal(request.signal or "SIGKILL")
        if not record.alive:
            raise Conflict(f"cannot kill container: {request.ref}: container {record.id} is not running")
        stop_signal = parse_signal(record.container.config.stop_signal or "SIGTERM")
        await self._records.note(record.event("kill", signal=str(int(number))))
        try:
            await self._peers.signal(record, number, deliberate=number in (signals.SIGKILL, stop_signal))
        except Conflict as error:
            raise Conflict(f"cannot kill container: {request.ref}: {error}") from error
        if number == signals.SIGKILL:
            await self._records.until(record.id, lambda now: now is None or now.exits > record.exits, KILL_PATIENCE_S)
        elif record.status == "restarting":
            await self._records.until(record.id, lambda now: now is None or now.status != "restarting", REST_PATIENCE_S)

    # Restart

    async def restart(self, request: StopContainer) -> None:
        """Stop it, if it runs, and start it; once per key."""
        record = await self._records.find_settled(request.ref)
        if known(record, request.key):
            return
        if record.alive:
            record = await self._stop_to_restart(record, request)
        if record.status not in ("created", "exited"):
            raise Conflict("container is marked for removal and cannot be started")
        await self._starting.launch(record, request.key, "restart")

    async def _stop_to_restart(self, record: Record, request: StopContainer) -> Record:
        """Stop; a ``--rm`` container stays, since the stop in the middle of a restart is not its end."""
        if record.auto_remove:
            timeout_s = _timeout_s(record, request)
            patience_s = (timeout_s if timeout_s >= 0 else FOR_EVER_S) + KEEP_MARGIN_S
            until_ns = self._records.clock.time_ns() + patience_s * 1_000_000_000
            record = await self._records.change(record, _keep_until(until_ns))
        await self._stop(record, request)
        await self._records.note(record.event("stop"))
        return await self._records.find(record.id)

    # Remove

    async def remove(self, request: RemoveContainer) -> None:
        """Raises Conflict when it runs and that is not to be forced."""
        if request.link:
            await self._unlink(request.ref)
            return
        record = await self._records.find_settled(request.ref)
        for _ in range(FORCE_ATTEMPTS):
            if not record.alive:
                break
            if not request.force:
                raise _cannot_remove(record)
            await self._kill_to_remove(record, volumes=request.volumes)
            gone = await self._records.get(record.id)
            if gone is None:
                return
            record = gone
        await self._removing.remove(record, volumes=request.volumes)

    async def _unlink(self, ref: str) -> None:
        """Remove the link that ``name/alias`` stands for; both containers stay."""
        name, _, alias = ref.strip("/").rpartition("/")
        if not name:
            raise Conflict("Conflict, cannot remove the default link name of the container")
        record = await self._records.find(name)

        def apply(current: Record) -> list[DomainEvent]:
            if current.links.pop(alias, None) is None:
                raise NotFound(f"No such container: {ref}")
            return []

        await self._records.change(record, apply)

    async def _kill_to_remove(self, record: Record, *, volumes: bool) -> None:
        """Kill; whoever learns of the exit first begins the removal with it, also when this request is cut off."""
        until_ns = self._records.clock.time_ns() + DOOMED_NS

        def doom(current: Record) -> list[DomainEvent]:
            if not current.alive:
                return []
            current.doomed_until_ns, current.remove_volumes = until_ns, volumes
            return [current.event("kill", signal=str(int(signals.SIGKILL)))]

        record = await self._records.change(record, doom)
        await self.exited(await self._peers.stop(record, int(signals.SIGKILL), 0))

    # Pause

    async def pause(self, ref: str) -> None:
        record = await self._records.find_settled(ref)
        if record.status == "paused":
            raise Conflict(f"Container {record.id} is already paused")
        check_runs(record)
        await self._peers.pause(record)

        def apply(current: Record) -> list[DomainEvent]:
            if current.status != "paused":
                check_runs(current)  # it may have ended since
                current.become("paused")
            return [current.event("pause")]

        await self._records.change(record, apply)

    async def unpause(self, ref: str) -> None:
        record = await self._records.find_settled(ref)
        if record.status != "paused":
            raise Conflict(f"Container {record.id} is not paused")
        await self._peers.unpause(record)

        def apply(current: Record) -> list[DomainEvent]:
            if current.status == "paused":
                current.become("running")
            return [current.event("unpause")]

        await self._records.change(record, apply)


def _cannot_remove(record: Record) -> Conflict:
    advice = "unpause and then stop" if record.status == "paused" else "stop"
    return Conflict(
        f'cannot remove container "/{record.name}": container is {record.status}: '
        f"{advice} the container before removing or force remove"
    )


def check_runs(record: Record) -> None:
    """Raises Conflict, in Docker's words, for a container without a process."""
    if record.status == "restarting":
        raise Conflict(f"Container {record.id} is restarting, wait until the container is running")
    if not record.alive:
        raise Conflict(f"container {record.id} is not running")


def _timeout_s(record: Record, request: StopContainer) -> int:
    """Seconds between signal and SIGKILL; -1 waits for ever."""
    if request.timeout_s is not None:
        return request.timeout_s
    configured = record.container.config.stop_timeout
    return DEFAULT_STOP_TIMEOUT_S if configured is None else configured


def _keep_until(until_ns: int) -> Apply:
    def apply(current: Record) -> list[DomainEvent]:
        current.kept_until_ns = until_ns
        return []

    return apply
