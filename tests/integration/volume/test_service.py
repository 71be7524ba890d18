"""The volume service over a real bus and database, with a node that only keeps names."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import PurePosixPath

import orjson
import pytest

from services.volume.handlers import VolumeHandlers
from shared.bus.client import EMPTY, Bus, Empty
from shared.clock import SystemClock
from shared.contracts import volumes as contract
from shared.contracts.volumes import (
    AcquireVolumes,
    CreateVolume,
    ListVolumes,
    NodeVolume,
    NodeVolumes,
    PruneVolumes,
    ReleaseVolumes,
    Volume,
    VolumeRef,
    VolumeSizes,
    WantedVolume,
)
from shared.errors import Conflict, InvalidArgument, NotFound, Unavailable
from shared.events import outbox
from shared.state.database import Database
from shared.state.migrate import default_history


class Node:
    """An agent's volume orders, in memory."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.broken = False

    async def ensure(self, volume: NodeVolume) -> Empty:
        self.names.add(volume.name)
        return EMPTY

    async def remove(self, volume: NodeVolume) -> Empty:
        if self.broken:
            raise Unavailable("the disk is gone")
        self.names.discard(volume.name)
        return EMPTY

    async def sizes(self, request: NodeVolumes) -> VolumeSizes:
        return VolumeSizes(sizes={name: 100 for name in request.names if name in self.names})


@pytest.fixture
async def node(bus: Bus) -> Node:
    node = Node()
    await bus.serve(contract.NODE_ENSURE, node.ensure, node="here")
    await bus.serve(contract.NODE_REMOVE, node.remove, node="here")
    await bus.serve(contract.NODE_SIZES, node.sizes, node="here")
    return node


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = await Database.open(database_url, service="volume", migrations=default_history("volume"))
    yield database
    await database.close()


@pytest.fixture
async def handlers(bus: Bus, database: Database, node: Node) -> VolumeHandlers:
    return VolumeHandlers(database, bus, SystemClock(), "here", PurePosixPath("/data/volumes"))


@pytest.fixture
async def service(handlers: VolumeHandlers, bus: Bus) -> Bus:
    await handlers.serve()
    return bus


async def create(bus: Bus, name: str = "", **fields: object) -> Volume:
    return await bus.request(contract.CREATE, CreateVolume.model_validate({"name": name, **fields}))


async def acquire(bus: Bus, container: str, *names: str) -> list[Volume]:
    request = AcquireVolumes(container_id=container, node="here", volumes=[WantedVolume(name=name) for name in names])
    return (await bus.request(contract.ACQUIRE, request)).volumes


async def release(bus: Bus, container: str, *, remove_anonymous: bool = False) -> None:
    request = ReleaseVolumes(container_id=container, remove_anonymous=remove_anonymous)
    await bus.request(contract.RELEASE, request)


async def listed(bus: Bus, **filters: list[str]) -> set[str]:
    return {one.name for one in (await bus.request(contract.LIST, ListVolumes(filters=filters))).volumes}


async def test_create_inspect_remove(service: Bus, node: Node) -> None:
    made = await create(service, "data", labels={"a": "b"})
    assert (made.mountpoint, made.driver, made.anonymous) == ("/data/volumes/data/_data", "local", False)
    assert node.names == {"data"}
    assert await create(service, "data", options={}) == made
    assert await service.request(contract.INSPECT, VolumeRef(name="data")) == made
    anonymous = await create(service)
    assert len(anonymous.name) == 64
    assert anonymous.anonymous
    await service.request(contract.REMOVE, VolumeRef(name="data"))
    assert node.names == {anonymous.name}
    with pytest.raises(NotFound, match=r"^get data: no such volume$"):
        await service.request(contract.INSPECT, VolumeRef(name="data"))
    with pytest.raises(NotFound, match=r"^get data: no such volume$"):
        await service.request(contract.REMOVE, VolumeRef(name="data"))
    await service.request(contract.REMOVE, VolumeRef(name="data", force=True))


@pytest.mark.parametrize(
    ("fields", "error", "text"),
    [
        ({"name": "a"}, InvalidArgument, "create a: volume name is too short"),
        ({"name": "-bad"}, InvalidArgument, 'create -bad: "-bad" includes invalid characters for a local volume name'),
        ({"name": "x" * 300}, InvalidArgument, "too long"),
        ({"driver": "nosuch"}, NotFound, 'error looking up volume plugin nosuch: plugin "nosuch" not found'),
        ({"options": {"bogus": "1"}}, InvalidArgument, 'create vol: invalid option: "bogus"'),
        ({"options": {"type": "tmpfs"}}, InvalidArgument, 'missing required option: "device"'),
        ({"options": {"size": "1m"}}, InvalidArgument, "quota size requested but no quota support"),
    ],
)
async def test_refused(service: Bus, fields: dict[str, object], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        await create(service, **{"name": "vol", **fields})  # type: ignore[arg-type]  # a table of cases
    assert text in str(caught.value)
    assert await listed(service) == set()


async def test_held_volumes_stay(service: Bus, node: Node) -> None:
    first = await acquire(service, "c1", "data", "")
    assert [one.name for one in first] == [one.name for one in await acquire(service, "c1", "data", "")]
    await acquire(service, "c2", "data")
    with pytest.raises(Conflict, match=r"^remove data: volume is in use - \[c1, c2\]$"):
        await service.request(contract.REMOVE, VolumeRef(name="data", force=True))
    anonymous = first[1].name
    assert await listed(service, dangling=["false"]) == {"data", anonymous}
    assert (await service.request(contract.PRUNE, PruneVolumes(filters={"all": ["true"]}))).names == []
    await release(service, "c1", remove_anonymous=True)
    await release(service, "c1", remove_anonymous=True)
    assert await listed(service) == {"data"}
    await release(service, "c2", remove_anonymous=True)
    assert await listed(service, dangling=["true"]) == {"data"}


async def test_prune_takes_anonymous_ones_unless_told(service: Bus) -> None:
    await create(service, "kept", labels={"keep": "1"})
    await create(service, "plain")
    anonymous = await create(service)
    pruned = await service.request(contract.PRUNE, PruneVolumes())
    assert (pruned.names, pruned.space_reclaimed_bytes) == ([anonymous.name], 100)
    pruned = await service.request(contract.PRUNE, PruneVolumes(filters={"all": ["1"], "label!": ["keep"]}))
    assert pruned.names == ["plain"]
    with pytest.raises(InvalidArgument, match="invalid filter 'bogus'"):
        await service.request(contract.PRUNE, PruneVolumes(filters={"bogus": ["x"]}))
    with pytest.raises(InvalidArgument, match=r"invalid filter 'dangling=\[maybe\]'"):
        await listed(service, dangling=["maybe"])


async def test_a_node_that_cannot_remove_keeps_the_volume(service: Bus, node: Node) -> None:
    await create(service, "data")
    node.broken = True
    with pytest.raises(Unavailable, match="the disk is gone"):
        await service.request(contract.REMOVE, VolumeRef(name="data"))
    assert await listed(service) == {"data"}


async def test_a_crash_between_mark_and_files_is_ended_at_the_next_start(
    service: Bus, handlers: VolumeHandlers, database: Database, node: Node
) -> None:
    await create(service, "data")
    async with database.transaction() as tx:
        await handlers._store.mark(tx, ["data"], removing=True)
    assert await listed(service) == set()
    with pytest.raises(Conflict, match="being removed"):
        await acquire(service, "c1", "data")
    await handlers.finish_removals()
    assert node.names == set()
    await create(service, "data")


async def test_events_and_sizes(service: Bus, database: Database) -> None:
    await acquire(service, "c1", "data")
    await create(service, "data")
    await release(service, "c1")
    await service.request(contract.REMOVE, VolumeRef(name="data"))
    async with database.read() as connection:
        rows = await outbox.rows_after(connection, 0, 100)
    bodies = [orjson.loads(row.payload) for row in rows]
    assert [(body["action"], body["actor_id"]) for body in bodies] == [
        ("create", "data"),
        ("mount", "data"),
        ("unmount", "data"),
        ("destroy", "data"),
    ]
    assert bodies[1]["attributes"] == {"driver": "local", "container": "c1"}
    await create(service, "sized")
    (sized,) = (await service.request(contract.LIST, ListVolumes(sizes=True))).volumes
    assert sized.size_bytes == 100
