"""BuildKit's protocol, spoken by a client of our own: what the engine refuses, and what it says of itself."""

from __future__ import annotations

import asyncio

import pytest
from grpclib import GRPCError
from grpclib.const import Status
from grpclib.health.v1.health_grpc import HealthStub
from grpclib.health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from services.image.buildkit.wire import control_pb2, gateway_pb2, ops_pb2
from services.image.buildkit.wire.control_grpc import ControlStub
from services.image.buildkit.wire.gateway_grpc import LLBBridgeStub
from tests.lab.buildkit import engine_channel, new_ref, upgrade
from tests.lab.engine import Engine

pytestmark = pytest.mark.root
WAY_OUT = "docker buildx create --driver docker-container"


def raw_graph() -> ops_pb2.Definition:
    definition = ops_pb2.Definition()
    source = ops_pb2.Op(source=ops_pb2.SourceOp(identifier="docker-image://docker.io/library/busybox:latest"))
    getattr(definition, "def").append(source.SerializeToString())
    return definition


async def test_the_engine_says_what_it_is(engine: Engine) -> None:
    async with engine_channel(engine.socket) as channel:
        control = ControlStub(channel)
        (worker,) = (await control.ListWorkers(control_pb2.ListWorkersRequest())).record
        assert [platform.OS for platform in worker.platforms] == ["linux"]
        assert (await control.Info(control_pb2.InfoRequest())).buildkitVersion.package == "github.com/moby/buildkit"
        health = await HealthStub(channel).Check(HealthCheckRequest())
        assert health.status == HealthCheckResponse.SERVING


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"Definition": raw_graph()}, WAY_OUT),
        ({"Frontend": "gateway.v0"}, WAY_OUT),
        ({"Entitlements": ["device"]}, "the entitlement device"),
    ],
)
async def test_what_needs_buildkit_itself_is_refused_with_the_way_out(
    engine: Engine, fields: dict[str, object], text: str
) -> None:
    async with engine_channel(engine.socket) as channel:
        with pytest.raises(GRPCError, match=text):
            await ControlStub(channel).Solve(control_pb2.SolveRequest(Ref=new_ref(), **fields))  # type: ignore[arg-type]


async def test_a_client_that_leads_its_build(engine: Engine) -> None:
    ref = new_ref()
    metadata = {"buildkit-controlapi-buildid": ref}
    async with engine_channel(engine.socket) as channel:
        control, bridge = ControlStub(channel), LLBBridgeStub(channel)
        solve = asyncio.create_task(control.Solve(control_pb2.SolveRequest(Ref=ref)))
        pong = await bridge.Ping(gateway_pb2.PingRequest(), metadata=metadata)
        assert "solve.base" in {cap.ID for cap in pong.FrontendAPICaps}
        graph = gateway_pb2.SolveRequest(Definition=raw_graph())
        with pytest.raises(GRPCError, match=WAY_OUT):
            await bridge.Solve(graph, metadata=metadata)
        with pytest.raises(GRPCError) as missing:
            await bridge.ReadFile(gateway_pb2.ReadFileRequest(Ref="nothing", FilePath="/x"), metadata=metadata)
        assert missing.value.status is Status.NOT_FOUND
        with pytest.raises(GRPCError, match="does not name its build"):
            await bridge.Ping(gateway_pb2.PingRequest())
        await bridge.Return(gateway_pb2.ReturnRequest(result=gateway_pb2.Result()), metadata=metadata)
        assert dict((await solve).ExporterResponse) == {}
        assert await control.Status(control_pb2.StatusRequest(Ref=ref)) == []


async def test_upgrades_that_are_none(engine: Engine) -> None:
    for path, protocol in (("grpc", "h3"), ("session", "h3"), ("session", "h2c")):  # the last one names no session
        reader, writer = await asyncio.open_unix_connection(str(engine.socket))
        head = await upgrade(reader, writer, path, protocol=protocol)
        assert head.startswith("HTTP/1.1 400"), head
        writer.close()
        await writer.wait_closed()
