"""One short function per order that control sends to this node."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from services.executor.agent.configuration.mounts import check_sources
from services.executor.agent.configuration.resources import oci_resources
from services.executor.agent.containers import netfiles, processes
from services.executor.agent.containers.lifecycle import Containers
from services.executor.agent.containers.netfiles import ResolverDefaults
from services.executor.agent.containers.records import NodeRecord
from services.executor.agent.containers.stats import docker_stats, with_previous
from services.executor.agent.execs.watching import Execs
from services.executor.agent.files.archive import Archives
from services.executor.agent.files.volumes import NodeVolumes
from services.executor.agent.layers.store import NodeLayers
from services.executor.agent.network import NodeNetwork
from services.executor.agent.network.wanted import elect_gateway
from services.executor.agent.output.attach import AttachSpec
from services.executor.agent.output.logs import LogReader, end_of_log
from services.executor.runtime.cgroups.interface import CgroupBackend
from shared.bus.batches import Batch, pack
from shared.bus.client import EMPTY, Bus, Empty
from shared.bus.handover import FIELD, Outlet, PipeRef, give
from shared.bus.streams import ByteStream, StreamBroken, StreamCancelled, accept
from shared.contracts import networks as network_contract
from shared.contracts import node as contract
from shared.contracts import volumes as volume_contract
from shared.contracts.containers import Changes, Logs, PathStat, StatsResult, TopResult
from shared.contracts.networks import Attachment
from shared.contracts.node import (
    Attached,
    AttachNetwork,
    AttachOrder,
    ContainerId,
    ContainerOrder,
    DetachNetwork,
    ExecOrder,
    ExitRecord,
    ExportOrder,
    GetArchiveOrder,
    LogOrder,
    PackChanges,
    PathOrder,
    PrepareContainer,
    PutArchiveOrder,
    RemoveOrder,
    RenameOrder,
    ResizeOrder,
    SignalOrder,
    Sizes,
    SizesOrder,
    Started,
    StatsOrder,
    StopOrder,
    TopOrder,
    UpdateOrder,
)
from shared.errors import DavitError, Internal, Unavailable


def _outlet(pipe: PipeRef | None) -> Outlet | None:
    """The pipe of who asks; None when it is on another machine."""
    if pipe is None:
        return None
    try:
        return give(pipe)
    except Unavailable as error:
        if error.detail.get("field") != FIELD:
            raise
        return None


# Keys of attached clients that are remembered; one is asked again within seconds, or never.
CLIENTS_KNOWN = 4096


class Handlers:
    """The node's side of every contract in `shared.contracts.node`."""

    def __init__(
        self,
        bus: Bus,
        containers: Containers,
        execs: Execs,
        network: NodeNetwork,
        volumes: NodeVolumes,
        archives: Archives,
        layers: NodeLayers,
        cgroups: CgroupBackend,
        spawn: Callable[..., Any],
        resolver: ResolverDefaults,
    ) -> None:
        self._resolver = resolver
        self._bus = bus
        self._containers = containers
        self._execs = execs
        self._network = network
        self._volumes = volumes
        self._archives = archives
        self._layers = layers
        self._cgroups = cgroups
        self._spawn = spawn
        self._samples: dict[str, dict[str, Any]] = {}
        self._clients: deque[str] = deque(maxlen=CLIENTS_KNOWN)

    async def serve(self, node: str) -> None:
        """Subscribe to all orders of this node."""
        pairs: list[tuple[Any, Any]] = [
            (contract.START, self.start),
            (contract.PREPARE, self.prepare),
            (contract.STOP, self.stop),
            (contract.SIGNAL, self.signal),
            (contract.PAUSE, self.pause),
            (contract.UNPAUSE, self.unpause),
            (contract.UPDATE, self.update),
            (contract.RENAME, self.rename),
            (contract.REMOVE, self.remove),
            (contract.RESIZE, self.resize),
            (contract.TOP, self.top),
            (contract.STATS, self.stats),
            (contract.LOGS, self.logs),
            (contract.ATTACH, self.attach),
            (contract.STAT_PATH, self.stat_path),
            (contract.GET_ARCHIVE, self.get_archive),
            (contract.PUT_ARCHIVE, self.put_archive),
            (contract.EXPORT, self.export),
            (contract.CHANGES, self.changes),
            (contract.PACK_CHANGES, self.pack_changes),
            (contract.SIZES, self.sizes),
            (contract.EXEC_START, self.exec_start),
            (contract.ATTACH_NETWORK, self.attach_network),
            (contract.DETACH_NETWORK, self.detach_network),
            (volume_contract.NODE_ENSURE, self._volumes.ensure),
            (volume_contract.NODE_REMOVE, self._volumes.remove),
            (volume_contract.NODE_SIZES, self._volumes.sizes),
            (network_contract.NODE_APPLY, self._network.apply),
            (network_contract.NODE_REMOVE, self._network.remove),
        ]
        await asyncio.gather(*(self._bus.serve(one, handler, node=node) for one, handler in pairs))

    def _record(self, container_id: str) -> NodeRecord:
        return self._containers.records.get(container_id)

    async def start(self, order: ContainerOrder) -> Started:
        return await self._containers.start(order)

    async def prepare(self, request: PrepareContainer) -> Empty:
        check_sources(request.order.mounts)
        await self._containers.prepare(request.order)
        await self._layers.ensure(request.order)
        await self._volumes.prepare(request.order, self._layers.lower(request.order))
        return EMPTY

    async def stop(self, order: StopOrder) -> ExitRecord:
        return await self._containers.stop(order.id, order.signal, order.timeout_s)

    async def signal(self, order: SignalOrder) -> Empty:
        await self._containers.signal(order.id, order.signal, deliberate=order.deliberate)
        return EMPTY

    async def pause(self, order: ContainerId) -> Empty:
        await self._containers.pause(order.id)
        return EMPTY

    async def unpause(self, order: ContainerId) -> Empty:
        await self._containers.unpause(order.id)
        return EMPTY

    async def update(self, order: UpdateOrder) -> Empty:
        record = self._record(order.id)
        before = record.order.host_config
        host = before.model_copy(deep=True)
        for name in order.set_fields:
            setattr(host, name, getattr(order.resources, name))
        if order.restart_name is not None:
            host.restart_policy.name = order.restart_name
            host.restart_policy.maximum_retry_count = order.restart_maximum
        if order.set_fields and record.status in ("running", "paused"):
            limits = {"pids": {"limit": -1}} | oci_resources(before, devices=False)
            await self._containers.limit(record, oci_resources(host, devices=False), limits)
        record.order.host_config = host
        self._containers.records.save(record)
        return EMPTY

    async def rename(self, order: RenameOrder) -> Empty:
        record = self._record(order.id)
        record.order.name = order.name
        self._containers.records.save(record)
        return EMPTY

    async def remove(self, order: RemoveOrder) -> Empty:
        await self._containers.remove(order.id)
        self._samples.pop(order.id, None)
        return EMPTY

    async def resize(self, order: ResizeOrder) -> Empty:
        if order.exec_id:
            await self._execs.resize(order.exec_id, order.height, order.width)
        else:
            await self._containers.resize(order.id, order.height, order.width)
        return EMPTY

    async def top(self, order: TopOrder) -> TopResult:
        return await processes.top(self._containers.pids(order.id), order.ps_args)

    def _sample(self, order: StatsOrder, record: NodeRecord) -> dict[str, Any]:
        cgroup = self._cgroups.open(self._containers.cgroup_path(record)).stats()
        # what the host's interfaces count is nothing of the container's
        pid = 0 if self._hosts_network(record) else record.pid
        return docker_stats(cgroup, name=order.name, container_id=order.id, pid=pid)

    def _hosts_network(self, record: NodeRecord) -> bool:
        mode = record.order.network_mode
        if mode.startswith("container:"):
            other = self._containers.records.find(mode.partition(":")[2])
            return other is not None and self._hosts_network(other)
        return mode == "host"

    async def stats(self, order: StatsOrder) -> StatsResult:
        """One sample. Clients compute rates from two, so the previous one is kept and sent along."""
        record = self._record(order.id)
        self._containers.live(order.id)
        sample = await asyncio.to_thread(self._sample, order, record)
        if order.one_shot:
            return StatsResult(stats=with_previous(sample, None))
        previous, self._samples[order.id] = self._samples.get(order.id), sample
        return StatsResult(stats=with_previous(sample, previous))

    async def logs(self, order: LogOrder) -> Empty:
        stream = await accept(self._bus, order.request.stream)
        # Opened before the answer: who asks closes its own end of the pipe with that.
        output = _outlet(order.request.pipe) or stream
        self._spawn(self._send_logs(order.id, order.request, stream, output), name=f"logs {order.id[:12]}")
        return EMPTY

    async def _send_logs(
        self, container_id: str, request: Logs, stream: ByteStream, output: ByteStream | Outlet
    ) -> None:
        record = self._containers.records.find(container_id)
        tty = record.order.config.tty if record is not None else False
        max_files = int(record.order.log_options.get("max-file", 1)) if record is not None else 1
        paths = self._containers.records.paths(container_id)
        ended = self._containers.ended(container_id) if request.follow else None
        try:
            async for data, position in LogReader(paths.log, request, max_files=max_files).read(ended, tty=tty):
                await output.write(pack(Batch(position, data)))
            await stream.close_write()
        except (StreamCancelled, StreamBroken, BrokenPipeError):  # the reader went away: nobody is left to tell
            return
        except DavitError as error:
            await stream.fail(error)
        except OSError as error:
            await stream.fail(Internal(f"the log of container {container_id} cannot be read: {error}"))
        except asyncio.CancelledError:
            await stream.fail(Unavailable("the node's agent is being stopped"))  # not the end of the log
            raise
        finally:
            if isinstance(output, Outlet):
                output.close()
            await stream.aclose()

    async def attach(self, order: AttachOrder) -> Attached:
        request = order.request
        if not self._new_client(request.key):
            return Attached()
        stream = await accept(self._bus, request.stream)
        spec = AttachSpec(stdin=request.stdin, stdout=request.stdout, stderr=request.stderr)
        if request.logs:
            await self._replay(order.id, request.stdout, request.stderr, stream)
        if not request.stream_output:
            await stream.close_write()
            await stream.aclose()
            return Attached()
        # Of a container that does not run, the client is going to get all that is logged from here on.
        paths = self._containers.records.paths(order.id)
        position = end_of_log(paths.log) if not self._containers.runs(order.id) else ""
        await self._containers.attach(order.id, spec, stream)
        return Attached(position=position)

    def _new_client(self, key: str) -> bool:
        """Whether a client has not been attached before: control may have died over it, and it asks again."""
        if key in self._clients:
            return False
        if key:
            self._clients.append(key)
        return True

    async def _replay(self, container_id: str, stdout: bool, stderr: bool, stream: ByteStream) -> None:
        """What has been printed so far, for an attach with ``logs=1``."""
        record = self._containers.records.find(container_id)
        if record is None:
            return
        request = Logs(ref=container_id, stream=stream.ref, stdout=stdout, stderr=stderr)
        reader = LogReader(self._containers.records.paths(container_id).log, request)
        async for data, _ in reader.read(None, tty=record.order.config.tty):
            if data:
                await stream.write(data)

    async def stat_path(self, order: PathOrder) -> PathStat:
        return await self._archives.stat(order.id, order.path)

    async def get_archive(self, order: GetArchiveOrder) -> PathStat:
        stream = await accept(self._bus, order.stream)
        return await self._archives.send_path(order.id, order.path, stream, order.pipe)

    async def put_archive(self, order: PutArchiveOrder) -> Empty:
        stream = await accept(self._bus, order.stream)
        await self._archives.receive(
            order.id,
            order.path,
            stream,
            order.pipe,
            no_overwrite_dir_non_dir=order.no_overwrite_dir_non_dir,
            copy_uid_gid=order.copy_uid_gid,
        )
        return EMPTY

    async def export(self, order: ExportOrder) -> Empty:
        stream = await accept(self._bus, order.stream)
        await self._archives.export(order.id, stream, order.pipe)
        return EMPTY

    async def changes(self, order: ContainerId) -> Changes:
        return await self._archives.changes(order.id)

    async def pack_changes(self, order: ContainerId) -> PackChanges:
        return PackChanges(stream=await self._archives.offer_changes(order.id))

    async def sizes(self, order: SizesOrder) -> Sizes:
        return await self._archives.sizes(order.ids, order.layers)

    async def exec_start(self, order: ExecOrder) -> Started:
        return await self._execs.start(order)

    async def attach_network(self, order: AttachNetwork) -> Empty:
        async with self._containers.lock(order.id):
            record = self._record(order.id)
            if record.status != "restarting":  # else its next run begins with it
                self._containers.live(order.id)
                await self._network.attach(order.id, record.pid, order.attachment)
            before = list(record.order.attachments)
            record.order.attachments.append(order.attachment)
            return await self._networks_changed(record, before)

    async def detach_network(self, order: DetachNetwork) -> Empty:
        async with self._containers.lock(order.id):
            record = self._record(order.id)
            before = list(record.order.attachments)
            for attachment in [one for one in before if one.endpoint_id == order.endpoint_id]:
                if self._containers.runs(order.id):
                    await self._network.detach(order.id, record.pid, attachment)
                record.order.attachments.remove(attachment)
            elect_gateway(record.order.attachments)
            return await self._networks_changed(record, before)

    async def _networks_changed(self, record: NodeRecord, before: list[Attachment]) -> Empty:
        self._containers.records.save(record)
        paths = self._containers.records.paths(record.id)
        await asyncio.to_thread(
            netfiles.networks_changed, record.order, paths, before, record.started_at_ns, self._resolver
        )
        return EMPTY
