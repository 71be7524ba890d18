"""Further processes in containers, with shims that are sockets in this process."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import pytest

from services.executor.agent.containers.probes import Collected, Probes
from services.executor.agent.containers.records import NodeRecord, NodeRecords
from services.executor.agent.execs.launch import ExecLauncher
from services.executor.agent.execs.watching import Execs
from services.executor.agent.shims.client import ShimClient
from services.executor.agent.shims.zygote import LaunchResult
from shared.bus.streams import StreamRef
from shared.contracts.containers import CreateExec
from shared.contracts.docker import ContainerConfig, HostConfig
from shared.contracts.node import ContainerOrder, ExecOrder, ExecReport
from shared.errors import Unavailable
from shared.testing.bus import MemoryBus, MemoryHub

ID, EXEC = "c" * 64, "e" * 64


class FakeShim:
    """Answers as a shim does; its process ends when it is killed."""

    def __init__(self, container_id: str, exec_id: str) -> None:
        self.state = {"id": container_id, "exec_id": exec_id, "status": "running", "pid": 7, "shim_pid": 8}
        self.signals: list[int] = []
        self.ended = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                size = int.from_bytes(await reader.readexactly(4), "big")
                request = json.loads(await reader.readexactly(size))
                answer = json.dumps({"id": request["id"], "ok": await self.answer(request)}).encode()
                writer.write(struct.pack(">I", len(answer)) + answer)
        except asyncio.IncompleteReadError:
            writer.close()

    async def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        if request["op"] == "signal":
            self.signals.append(request["number"])
            self.ended.set()
        elif request["op"] == "wait":
            await self.ended.wait()
            return {"exit_code": 137, "finished_at_ns": 1}
        return self.state | {"started_at_ns": 5}


class FakeContainers:
    """Every container runs."""

    def __init__(self, records: NodeRecords) -> None:
        self.records = records

    def live(self, container_id: str) -> None:
        self.records.get(container_id)

    def cgroup_path(self, record: NodeRecord) -> str:
        return f"/davit/{record.id}"


class FakeZygote:
    """Starts fake shims."""

    def __init__(self) -> None:
        self.launched: list[FakeShim] = []
        self.launches = asyncio.Semaphore(0)
        self.tasks: list[asyncio.Task[None]] = []
        self.servers: list[asyncio.Server] = []
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def launch(self, order: dict[str, Any], fds: Any = ()) -> LaunchResult:
        await self.go_on.wait()
        shim = FakeShim(order["id"], order["exec_id"])
        self.launched.append(shim)
        ours, theirs = socket.socketpair()
        self.servers.append(await asyncio.start_unix_server(shim.serve, order["socket"]))
        reader, writer = await asyncio.open_unix_connection(sock=theirs)
        self.tasks.append(asyncio.create_task(shim.serve(reader, writer)))
        self.launches.release()
        first = {"event": "launched", "pid": 7, "shim_pid": 8, "started_at_ns": 5}
        return LaunchResult(await ShimClient.adopt(ours, order["socket"]), first)


class FakeReporter:
    def __init__(self) -> None:
        self.told: list[ExecReport] = []

    async def send_exec(self, report: ExecReport) -> bool:
        self.told.append(report)
        return True


class Node:
    def __init__(self, root: Path) -> None:
        self.records = NodeRecords(root / "data", root / "run")
        self.records.load()
        order = ContainerOrder(
            id=ID, name="web", generation=1, layers=[], config=ContainerConfig(), host_config=HostConfig(),
            path="sh", args=[],
        )  # fmt: skip
        self.records.save(NodeRecord(order=order, status="running", pid=5))
        self.zygote, self.reporter, self.hub = FakeZygote(), FakeReporter(), MemoryHub()
        self.bus: MemoryBus = self.hub.connect()
        self.tasks: list[asyncio.Task[Any]] = []
        self.launcher = ExecLauncher(FakeContainers(self.records), self.zygote)  # type: ignore[arg-type]
        self.execs = Execs("n", self.bus, self.records, self.launcher, self.reporter, self.spawn)  # type: ignore[arg-type]
        self.probes = Probes(self.records, self.launcher, self.spawn)

    def spawn(self, work: Coroutine[Any, Any, Any], *, name: str) -> asyncio.Task[Any]:
        self.tasks.append(asyncio.create_task(work, name=name))
        return self.tasks[-1]

    def sockets(self) -> list[str]:
        return sorted(path.name for path in (self.records.paths(ID).socket.parent).iterdir())


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    one = Node(tmp_path)
    yield one
    for server in one.zygote.servers:
        server.close()
    await asyncio.wait_for(asyncio.gather(*one.zygote.tasks), 5)
    assert all(task.done() for task in one.tasks)
    await one.bus.close()


def exec_order(stream: str | None = None) -> ExecOrder:
    ref = None if stream is None else StreamRef(id=stream)
    spec = CreateExec(ref=ID, cmd=["job"], attach_stdout=True)
    return ExecOrder(id=EXEC, container_id=ID, spec=spec, stream=ref, detach=stream is None)


async def test_an_exec_ordered_again_is_the_same_exec(node: Node) -> None:
    node.zygote.go_on.clear()
    first = asyncio.create_task(node.execs.start(exec_order()))
    await asyncio.sleep(0)
    again = asyncio.create_task(node.execs.start(exec_order()))
    await asyncio.sleep(0)
    node.zygote.go_on.set()
    assert await first == await again == await node.execs.start(exec_order())
    assert len(node.zygote.launched) == 1
    assert node.execs.running() == [EXEC]
    node.zygote.launched[0].ended.set()
    await asyncio.wait(node.tasks)
    assert [(one.id, one.exit_code) for one in node.reporter.told] == [(EXEC, 137)]
    assert (node.execs.running(), node.sockets()) == ([], [])


async def test_nothing_runs_when_its_output_has_nowhere_to_go(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    async def closed(*_: Any) -> None:
        raise Unavailable("the bus is closed")

    monkeypatch.setattr(node.bus, "publish", closed)
    with pytest.raises(Unavailable, match="the bus is closed"):
        await node.execs.start(exec_order("output"))
    assert node.zygote.launched == []
    assert not any(node.hub.listeners.values()), "who did not accept does not listen"


async def test_a_later_agent_goes_on_with_execs_and_ends_probes(node: Node, tmp_path: Path) -> None:
    await node.execs.start(exec_order())
    probing = node.spawn(node.probes.run(ID, ["check"], Collected(100)), name="probe")
    for _ in range(2):
        await node.zygote.launches.acquire()
    job, probe = node.zygote.launched
    later = Node(tmp_path)
    await later.probes.recover()
    await later.execs.recover()
    await asyncio.wait_for(probe.ended.wait(), 5)
    assert (probe.signals, job.signals) == ([9], [])
    assert later.execs.running() == [EXEC], "probes are not control's"
    assert (await later.execs.start(exec_order())).pid == 7
    assert later.zygote.launched == []
    probing.cancel()
    job.ended.set()
    await asyncio.wait([*later.tasks, *node.tasks])
    assert [one.id for one in later.reporter.told] == [EXEC]
    assert later.sockets() == []


async def test_a_dead_shim_leaves_an_exec_out_of_what_runs(node: Node, tmp_path: Path) -> None:
    path = node.records.exec_paths(ID, EXEC).socket
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    await node.execs.recover()
    assert (node.execs.running(), node.sockets()) == ([], [])


async def test_a_probe_given_up_while_it_was_being_started_is_killed(node: Node) -> None:
    node.zygote.go_on.clear()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(node.probes.run(ID, ["check"], Collected(100)), 0.01)
    node.zygote.go_on.set()
    await asyncio.wait(node.tasks, timeout=5)
    assert node.zygote.launched[0].signals == [9]
