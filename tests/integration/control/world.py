"""Fakes of what control talks to, on the bus like the real ones, and the client that asks control."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import BaseModel

from services.executor.control import bootstrap
from services.image.build.steps.changes import change
from shared.bus.client import EMPTY, Bus, Contract, Empty
from shared.bus.streams import StreamRef
from shared.clock import SystemClock
from shared.config import EngineConfig
from shared.contracts import containers as contract
from shared.contracts import images, networks, node, volumes
from shared.contracts.containers import Container, CreateContainer, NodeFacts, WaitContainer, WaitResult
from shared.contracts.docker import ContainerConfig, EndpointSettings, HostConfig
from shared.contracts.images import ImageId, ImageRef, Images, ResolvedImage
from shared.contracts.networks import Attachment, ConnectNetwork, Joined, JoinNetworks, LeaveNetworks, Left, NodeNetwork
from shared.contracts.node import (
    Attached,
    AttachOrder,
    ContainerOrder,
    ContainerReport,
    ExecOrder,
    ExecReport,
    ExitRecord,
    Inventory,
    InventoryAnswer,
    InventoryItem,
    PackChanges,
    SignalOrder,
    Sizes,
    SizesOrder,
    Started,
    StopOrder,
)
from shared.contracts.volumes import AcquiredVolumes, AcquireVolumes, ReleaseVolumes, Volume, Volumes
from shared.errors import Conflict, DavitError, NotFound
from shared.events import outbox
from shared.events.record import DomainEvent
from shared.logs import StructuredLogger
from shared.service import ServiceContext
from shared.state import migrate
from shared.state.database import Database

NODE = "n1"
IMAGE_ID = "sha256:" + "a" * 64
LAYER = "sha256:" + "b" * 64


class FakeNode:
    """A node on which processes are dictionary entries."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.items: dict[str, InventoryItem] = {}
        self.orders: dict[str, ContainerOrder] = {}
        self.calls: list[tuple[str, str]] = []
        self.fail: dict[str, DavitError] = {}
        self.before: dict[str, Callable[[], Any]] = {}
        self.exec_ends_at_once: int | None = None
        self.execs: list[str] = []
        self.delay: dict[str, asyncio.Event] = {}
        self.ignores_signals = False
        self.exits_at_once: int | None = None
        self.pid = 100

    async def serve(self) -> None:
        pairs: list[tuple[Contract[Any, Any], Any]] = [
            (node.START, self.start),
            (node.PREPARE, self.plain("prepare", lambda order: order.order.id)),
            (node.STOP, self.stop),
            (node.SIGNAL, self.signal),
            (node.PAUSE, self.plain("pause")),
            (node.UNPAUSE, self.plain("unpause")),
            (node.UPDATE, self.plain("update")),
            (node.RENAME, self.plain("rename")),
            (node.REMOVE, self.remove),
            (node.RESIZE, self.plain("resize")),
            (node.LOGS, self.plain("logs")),
            (node.ATTACH, self.attach),
            (node.SIZES, self.sizes),
            (node.EXEC_START, self.exec_start),
            (node.ATTACH_NETWORK, self.plain("attach_network")),
            (node.DETACH_NETWORK, self.plain("detach_network")),
            (node.PACK_CHANGES, self.pack),
        ]
        for one, handler in pairs:
            await self.bus.serve(one, handler, node=NODE)

    def _called(self, verb: str, container_id: str) -> None:
        self.calls.append((verb, container_id))
        if verb in self.before:
            self.before[verb]()
        if verb in self.fail:
            raise self.fail[verb]

    def plain(self, verb: str, of: Callable[[Any], str] = lambda order: order.id) -> Any:
        async def handler(order: Any) -> Empty:
            self._called(verb, of(order))
            return EMPTY

        return handler

    def running(self, container_id: str) -> bool:
        item = self.items.get(container_id)
        return item is not None and item.status in ("running", "paused")

    async def start(self, order: ContainerOrder) -> Started:
        self._called("start", order.id)
        if "start" in self.delay:
            await self.delay["start"].wait()
        item = self.items.get(order.id)
        if item is None or not (self.running(order.id) or item.generation == order.generation):
            self.pid += 1
            item = InventoryItem(
                id=order.id,
                generation=order.generation,
                start_key=order.start_key,
                status="running",
                pid=self.pid,
                started_at_ns=time.time_ns(),
            )
            self.items[order.id], self.orders[order.id] = item, order
        if self.exits_at_once is not None:
            await self.exit(order.id, self.exits_at_once, wait=False)
        return Started(pid=item.pid, started_at_ns=item.started_at_ns)

    def end(self, container_id: str, code: int) -> ExitRecord:
        item = self.items[container_id]
        item.exit = ExitRecord(
            id=container_id,
            generation=item.generation,
            start_key=item.start_key,
            exit_code=code,
            started_at_ns=item.started_at_ns,
            finished_at_ns=time.time_ns(),
        )
        item.status = "exited"
        return item.exit

    async def report(self, container_id: str, kind: Any, **more: Any) -> None:
        item = self.items[container_id]
        report = ContainerReport(node=NODE, id=container_id, generation=item.generation, kind=kind, **more)
        await self.bus.request(node.REPORT, report, node=NODE)

    async def exit(self, container_id: str, code: int, *, wait: bool = True, restarting: bool = False) -> ExitRecord:
        """The process ends; control is told."""
        ended = self.end(container_id, code)
        if restarting:
            self.items[container_id].status = "restarting"
        telling = self.report(container_id, "restarting" if restarting else "exited", exit=ended)
        if wait:
            await telling
        else:
            asyncio.get_running_loop().create_task(telling)
        return ended

    async def stop(self, order: StopOrder) -> ExitRecord:
        self._called("stop", order.id)
        item = self.items.get(order.id)
        if item is None:
            raise NotFound(f"No such container: {order.id}")
        if item.status == "restarting":
            item.status = "exited"
        if item.status == "exited":
            assert item.exit is not None
            return item.exit
        if self.ignores_signals:
            await asyncio.sleep(order.timeout_s)
        number = 9 if self.ignores_signals or order.timeout_s == 0 else order.signal
        return await self.exit(order.id, 128 + number, wait=False)

    async def signal(self, order: SignalOrder) -> Empty:
        self._called("signal", order.id)
        if order.signal == 9:
            await self.exit(order.id, 137, wait=False)
        return EMPTY

    async def remove(self, order: Any) -> Empty:
        self._called("remove", order.id)
        if self.running(order.id):
            raise Conflict(f"container {order.id} is running")
        self.items.pop(order.id, None)
        return EMPTY

    async def attach(self, order: AttachOrder) -> Attached:
        self._called("attach", order.id)
        return Attached(position="1.2.3")

    async def sizes(self, order: SizesOrder) -> Sizes:
        return Sizes(rw=dict.fromkeys(order.ids, 10), root_fs=dict.fromkeys(order.ids, 100))

    async def exec_start(self, order: ExecOrder) -> Started:
        self._called("exec_start", order.container_id)
        if self.exec_ends_at_once is not None:
            await self.exec_exit(order.id, order.container_id, self.exec_ends_at_once)
        else:
            self.execs.append(order.id)
        return Started(pid=77, started_at_ns=time.time_ns())

    async def exec_exit(self, exec_id: str, container_id: str, code: int) -> None:
        await self.bus.request(
            node.REPORT_EXEC, ExecReport(node=NODE, id=exec_id, container_id=container_id, exit_code=code), node=NODE
        )

    async def pack(self, order: Any) -> PackChanges:
        self._called("pack", order.id)
        return PackChanges(stream=StreamRef(id="changes"))

    async def inventory(self, *, age_s: float = 0.0, **more: Any) -> InventoryAnswer:
        """Tell control what is here. age_s: how far in the future it is taken, so that what control did is old."""
        seen = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + age_s))
        facts = NodeFacts(node=NODE, hostname="lab", cpus=2, memory_bytes=1 << 33, seen_at=seen, **more)
        request = Inventory(node=NODE, facts=facts, items=list(self.items.values()), execs=self.execs)
        return await self.bus.request(node.INVENTORY, request, node=NODE)


class FakeServices:
    """Images, networks and volumes with the least that control needs of them."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.image = ResolvedImage(id=IMAGE_ID, config=ContainerConfig(cmd=["sh"], env=["A=image"]), layers=[LAYER])
        self.endpoints: dict[str, list[str]] = {}
        self.generations: dict[str, int] = {}
        self.avoided: list[list[int]] = []
        self.leaves: list[str] = []
        self.held: dict[str, list[str]] = {}
        self.anonymous = 0
        self.removed_anonymous: list[str] = []
        self.committed: list[images.CommitLayer] = []
        self.fail: dict[str, DavitError] = {}
        self.resolvable = {"busybox", IMAGE_ID}

    async def serve(self) -> None:
        pairs: list[tuple[Contract[Any, Any], Any]] = [
            (images.RESOLVE, self.resolve),
            (images.INSPECT, self.inspect_image),
            (images.LIST, self.list_images),
            (images.NAMED, self.named_images),
            (images.COMMIT, self.commit),
            (images.CHANGE_CONFIG, change),
            (networks.JOIN, self.join),
            (networks.LEAVE, self.leave),
            (networks.CONNECT, self.connect),
            (networks.INSPECT, self.inspect_network),
            (networks.RENAME, self.nothing),
            (volumes.ACQUIRE, self.acquire),
            (volumes.RELEASE, self.release),
            (volumes.LIST, self.list_volumes),
        ]
        for one, handler in pairs:
            await self.bus.serve(one, handler)

    async def nothing(self, _: BaseModel) -> Empty:
        return EMPTY

    async def resolve(self, request: ImageRef) -> ResolvedImage:
        if request.ref not in self.resolvable:
            raise NotFound(f"No such image: {request.ref}:latest")
        return self.image

    async def inspect_image(self, request: ImageRef) -> images.Image:
        await self.resolve(request)
        return images.Image(id=IMAGE_ID, chain_ids=[LAYER])

    async def named_images(self, request: images.ImageNames) -> images.NamedImages:
        if "named" in self.fail:
            raise self.fail["named"]
        return images.NamedImages(ids={ref: [IMAGE_ID] for ref in request.refs if ref in self.resolvable})

    async def list_images(self, _: images.ListImages) -> Images:
        return Images(images=[images.Image(id=IMAGE_ID, chain_ids=[LAYER])])

    async def commit(self, request: images.CommitLayer) -> ImageId:
        self.committed.append(request)
        return ImageId(id="sha256:" + "c" * 64)

    def _attachment(self, container_id: str, network: str) -> Attachment:
        return Attachment(
            endpoint_id=f"e-{network}",
            container_id=container_id,
            network=NodeNetwork(id=f"id-{network}", name=network),
            address="172.17.0.2/16",
        )

    async def join(self, request: JoinNetworks) -> Joined:
        if "join" in self.fail:
            raise self.fail["join"]
        names = list(request.networks)
        self.avoided.append([one.port for one in request.avoid])
        self.generations[request.container_id] = request.generation
        self.endpoints[request.container_id] = names
        return Joined(
            attachments=[self._attachment(request.container_id, name) for name in names],
            settings={
                name: EndpointSettings(network_id=f"id-{name}", endpoint_id=f"e-{name}", ip_address="172.17.0.2")
                for name in names
            },
            ports=request.ports,
        )

    async def connect(self, request: ConnectNetwork) -> Joined:
        self.endpoints.setdefault(request.container_id, []).append(request.network)
        return Joined(
            attachments=[self._attachment(request.container_id, request.network)],
            settings={request.network: EndpointSettings(network_id=f"id-{request.network}", ip_address="10.0.0.2")},
        )

    async def leave(self, request: LeaveNetworks) -> Left:
        if "leave" in self.fail:
            raise self.fail["leave"]
        if request.generation is not None and self.generations.get(request.container_id, 0) > request.generation:
            return Left(kept=True)
        self.leaves.append(request.container_id)
        self.endpoints.pop(request.container_id, None)
        return Left()

    async def inspect_network(self, request: networks.NetworkRef) -> networks.Network:
        if request.ref.startswith("nope"):
            raise NotFound(f"network {request.ref} not found")
        name = request.ref.removeprefix("id-")
        return networks.Network(id=f"id-{name}", name=name)

    async def acquire(self, request: AcquireVolumes) -> AcquiredVolumes:
        found = []
        for wanted in request.volumes:
            self.anonymous += not wanted.name
            name = wanted.name or f"anonymous{self.anonymous}"
            found.append(Volume(name=name, mountpoint=f"/v/{name}", anonymous=not wanted.name))
        self.held[request.container_id] = [volume.name for volume in found]
        return AcquiredVolumes(volumes=found)

    async def release(self, request: ReleaseVolumes) -> Empty:
        names = self.held.pop(request.container_id, [])
        if request.remove_anonymous:
            self.removed_anonymous += [name for name in names if name.startswith("anonymous")]
        return EMPTY

    async def list_volumes(self, _: volumes.ListVolumes) -> Volumes:
        names = {name for held in self.held.values() for name in held}
        return Volumes(
            volumes=[
                Volume(name=name, in_use_by=[one for one, held in self.held.items() if name in held])
                for name in sorted(names)
            ]
        )


class Control:
    """One copy of control, in this process."""

    def __init__(self, context: ServiceContext) -> None:
        self.context = context

    @classmethod
    async def start(cls, nats_url: str, database_url: str, tmp_path: Path) -> Control:
        bus = await Bus.connect(nats_url, name="control")
        database = await Database.open(database_url, service="control", migrations=migrate.default_history("control"))
        config = EngineConfig(data_root=tmp_path / "data", run_dir=tmp_path / "run", node=NODE)
        log = StructuredLogger(logging.getLogger("davit.control"))
        context = ServiceContext("control", config, bus, database, NODE, SystemClock(), log)
        await bootstrap.start(context)
        return cls(context)

    @property
    def database(self) -> Database:
        return self.context.required_database

    async def kill(self) -> None:
        """As abrupt as a process can be left from inside: no closers, no replies."""
        tasks = [*self.context._tasks, *self.context.bus._tasks]
        await self.context.bus.nats.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.database.close()


class World:
    """Control and everybody around it."""

    def __init__(self, nats_url: str, database_url: str, tmp_path: Path) -> None:
        self._urls = (nats_url, database_url, tmp_path)
        self.controls: list[Control] = []

    async def __aenter__(self) -> Self:
        self.bus = await Bus.connect(self._urls[0], name="client")
        self.peer_bus = await Bus.connect(self._urls[0], name="peers")
        self.node, self.services = FakeNode(self.peer_bus), FakeServices(self.peer_bus)
        await self.node.serve()
        await self.services.serve()
        await self.add_control()
        await self.node.inventory()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for control in self.controls:
            await control.kill()
        await self.bus.close()
        await self.peer_bus.close()

    async def add_control(self) -> Control:
        control = await Control.start(*self._urls)
        self.controls.append(control)
        return control

    async def kill_control(self) -> None:
        await self.controls.pop().kill()

    async def ask(self, contract: Contract[Any, Any], request: BaseModel) -> Any:
        return await self.bus.request(contract, request)

    async def create(self, name: str = "", *, host: HostConfig | None = None, **config: Any) -> str:
        request = CreateContainer(
            name=name, config=ContainerConfig(**({"image": "busybox"} | config)), host_config=host or HostConfig()
        )
        return str((await self.ask(contract.CREATE, request)).id)

    async def start(self, ref: str, key: str = "") -> None:
        await self.ask(contract.START, contract.StartContainer(ref=ref, key=key))

    async def run(self, name: str = "", *, host: HostConfig | None = None, **config: Any) -> str:
        container_id = await self.create(name, host=host, **config)
        await self.start(container_id)
        return container_id

    async def inspect(self, ref: str) -> Container:
        found = await self.ask(contract.INSPECT, contract.InspectContainer(ref=ref))
        assert isinstance(found, Container)
        return found

    async def status(self, ref: str) -> str:
        return (await self.inspect(ref)).state.status

    async def wait(self, ref: str, condition: Any = "not-running", patience_s: float = 5.0) -> WaitResult:
        result = await self.ask(contract.WAIT, WaitContainer(ref=ref, condition=condition, patience_s=patience_s))
        assert isinstance(result, WaitResult)
        return result

    async def exists(self, ref: str) -> bool:
        try:
            await self.inspect(ref)
        except NotFound:
            return False
        return True

    async def eventually(self, check: Callable[[], Any], within_s: float = 5.0) -> None:
        """Wait until an (async) condition holds."""
        deadline = time.monotonic() + within_s
        while True:
            result = check()
            if asyncio.iscoroutine(result):
                result = await result
            if result:
                return
            assert time.monotonic() < deadline, "the condition did not come about"
            await asyncio.sleep(0.01)

    async def events(self, container_id: str = "") -> list[DomainEvent]:
        async with self.controls[0].database.read() as reader:
            rows = await outbox.rows_after(reader, 0, 10_000)
        found = [DomainEvent.model_validate_json(row.payload) for row in rows]
        return [event for event in found if not container_id or event.actor_id == container_id]

    async def actions(self, container_id: str) -> list[str]:
        return [event.action for event in await self.events(container_id)]
