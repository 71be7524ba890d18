"""Update, rename, prune: changes beside a container's life."""

from __future__ import annotations

from typing import Any

from services.executor.control.creation.limits import MIN_MEMORY, check_limits, discard
from services.executor.control.creation.names import checked_name
from services.executor.control.creation.subject import Subject
from services.executor.control.creation.validate import check_restart_policy
from services.executor.control.domain import Record
from services.executor.control.life.removing import Removing
from services.executor.control.nodes.registry import Nodes
from services.executor.control.peers import Peers
from services.executor.control.reads import pruning
from services.executor.control.state import sql
from services.executor.control.state.records import Records
from shared.bus.client import EMPTY, Empty
from shared.contracts import networks, node
from shared.contracts.containers import NodeFacts, Prune, Pruned, RenameContainer, UpdateContainer, Warnings
from shared.contracts.docker import HostConfig, Resources, RestartPolicy
from shared.contracts.networks import RenameEndpoints
from shared.contracts.node import RenameOrder, SizesOrder, UpdateOrder
from shared.docker.filters import until_ns
from shared.errors import Conflict, InvalidArgument, NotFound, Unsupported
from shared.events.record import DomainEvent
from shared.state.database import Transaction

UPDATABLE = frozenset(
    {
        "blkio_weight", "cpu_shares", "cpu_period", "cpu_quota", "cpuset_cpus", "cpuset_mems", "memory", "memory_swap",
        "memory_reservation", "nano_cpus", "pids_limit", "cpu_realtime_period", "cpu_realtime_runtime",
    }
)  # fmt: skip


class Changing:
    """Handlers of UPDATE, RENAME and PRUNE."""

    def __init__(self, records: Records, peers: Peers, nodes: Nodes, removing: Removing) -> None:
        self._records = records
        self._bus = peers.bus
        self._nodes = nodes
        self._removing = removing

    # Update

    async def update(self, request: UpdateContainer) -> Warnings:
        record = await self._records.find_settled(request.ref)
        if record.status in ("removing", "dead"):
            raise Conflict(f"container {record.id} is marked for removal and cannot be updated")
        facts = await self._nodes.facts_of(record.node)
        limits, discarded = possible_limits(changed_limits(request), facts)
        policy = request.restart_policy if request.restart_policy and request.restart_policy.name else None
        merged = merged_host_config(record.container.host_config, limits, policy)
        check_limits(Subject(record.container.config, merged, facts, frozenset()))
        if record.generation > 0:
            order = UpdateOrder(
                id=record.id,
                resources=Resources(**limits),
                set_fields=sorted(limits),
                restart_name=policy.name if policy else None,
                restart_maximum=policy.maximum_retry_count if policy else 0,
            )
            await self._bus.request(node.UPDATE, order, node=record.node)

        def apply(current: Record) -> list[DomainEvent]:
            current.container.host_config = merged_host_config(current.container.host_config, limits, policy)
            return [current.event("update")]

        await self._records.change(record, apply)
        return Warnings(warnings=discarded)

    # Rename

    async def rename(self, request: RenameContainer) -> Empty:
        if not request.name:
            raise InvalidArgument("Neither old nor new names may be empty")
        record = await self._records.find(request.ref)
        try:
            name = checked_name(request.name)
        except InvalidArgument as error:
            raise InvalidArgument(f"Error when allocating new name: {error}", field="name") from error
        if name == record.name:
            raise InvalidArgument("Renaming a container with the same name as its current name")
        if record.status in ("removing", "dead"):
            raise Conflict(f"container {record.id} is marked for removal and cannot be renamed")

        async def free(tx: Transaction) -> None:
            try:
                await sql.check_name(tx, name)
            except Conflict as error:
                raise Conflict(f"Error when allocating new name: {error}") from error

        def apply(current: Record) -> list[DomainEvent]:
            old, current.container.name = current.name, name
            return [current.event("rename", oldName="/" + old)]

        record = await self._records.change(record, apply, check=free)
        if record.generation > 0:
            await self._bus.request(node.RENAME, RenameOrder(id=record.id, name=name), node=record.node)
        if record.requested_networks:
            await self._bus.request(networks.RENAME, RenameEndpoints(container_id=record.id, container_name=name))
        return EMPTY

    # Prune

    async def prune(self, request: Prune) -> Pruned:
        """Remove containers that do not run, with their sizes known beforehand."""
        pruning.check(request.filters)
        limit_ns = until_ns(request.filters, self._records.clock.time_ns())
        async with self._records.database.read() as reader:
            records = await sql.in_status(reader, ("created", "exited", "dead"))
        chosen = [record for record in records if pruning.matches(record, request.filters, limit_ns)]
        sizes: dict[str, int] = {}
        for name in {record.node for record in chosen}:
            ids = [record.id for record in chosen if record.node == name]
            sizes |= (await self._bus.request(node.SIZES, SizesOrder(ids=ids), node=name)).rw
        removed: list[str] = []
        for record in chosen:
            try:
                await self._removing.remove(record, volumes=False)
            except (NotFound, Conflict):  # somebody else removed or started it: not ours any more
                continue
            removed.append(record.id)
        await self._records.note(
            DomainEvent(
                type="container", action="prune", actor_id="", attributes={"reclaimed": str(sum(sizes.values()))}
            )
        )
        return Pruned(ids=removed, space_reclaimed_bytes=sum(sizes.get(one, 0) for one in removed))


def changed_limits(request: UpdateContainer) -> dict[str, Any]:
    """What an update changes. Clients send every field; as with Docker, zero and null leave a limit as it is.

    Raises:
        Unsupported: A field that can only be set at creation.
    """
    changed = {}
    for name in request.set_fields:
        value = getattr(request.resources, name, None)
        if not value and not (name == "pids_limit" and value is not None):
            continue
        if name not in UPDATABLE:
            spelled = Resources.model_fields[name].alias
            raise Unsupported(f"{spelled} of a container cannot be updated", field=spelled)
        changed[name] = max(0, value) if name == "pids_limit" else value  # below zero means none, too
    return changed


def possible_limits(limits: dict[str, Any], node: NodeFacts) -> tuple[dict[str, Any], list[str]]:
    """Without those that the node's kernel does not have; and the warnings that say so, as at a creation."""
    given = HostConfig(**limits)
    discarded = discard(given, node)
    names = limits.keys() | ({"memory_swap"} if given.memory_swap else set())
    kept = {name: getattr(given, name) for name in names}
    return {name: value for name, value in kept.items() if value or name == "pids_limit"}, discarded


def merged_host_config(old: HostConfig, limits: dict[str, Any], policy: RestartPolicy | None) -> HostConfig:
    """Raises InvalidArgument where old and new limits, or policies, contradict each other."""
    _refuse_conflicts(old, limits)
    if policy is not None:
        check_restart_policy(policy)
        if old.auto_remove and policy.name != "no":
            raise InvalidArgument("Restart policy cannot be updated because AutoRemove is enabled for the container")
    merged = old.model_copy(update=limits)
    return merged if policy is None else merged.model_copy(update={"restart_policy": policy})


def _refuse_conflicts(old: HostConfig, limits: dict[str, Any]) -> None:
    if 0 < limits.get("memory", 0) < MIN_MEMORY:  # said first: what is wrong in itself before what does not fit
        raise InvalidArgument("Minimum memory limit allowed is 6MB", field="Memory")
    for new, fixed, text in (
        ("cpu_period", "nano_cpus", "CPU Period cannot be updated as NanoCPUs has already been set"),
        ("cpu_quota", "nano_cpus", "CPU Quota cannot be updated as NanoCPUs has already been set"),
        ("nano_cpus", "cpu_quota", "Nano CPUs cannot be updated as CPU Quota has already been set"),
        ("nano_cpus", "cpu_period", "Nano CPUs cannot be updated as CPU Period has already been set"),
    ):
        if limits.get(new) and getattr(old, fixed):
            raise InvalidArgument(f"Conflicting options: {text}", field=new)
    if "memory_swap" not in limits and old.memory_swap != -1 and limits.get("memory", 0) > old.memory_swap:
        raise InvalidArgument(
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time",
            field="Memory",
        )
