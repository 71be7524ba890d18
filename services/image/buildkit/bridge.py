"""LLBBridge: what a client that leads its build asks for while it goes on.

Source: moby/buildkit, frontend/gateway/forwarder (what each call has to answer).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import orjson

from services.image.buildkit import workers
from services.image.buildkit.builds import Build, Builds, evaluate
from services.image.buildkit.calls import answering
from services.image.buildkit.definitions import RAW_GRAPH, definition_of
from services.image.buildkit.lookups import Lookups
from services.image.buildkit.options import parse_options
from services.image.buildkit.subrequests import answer_of
from services.image.buildkit.targets import Target
from services.image.buildkit.transport import metadata_of
from services.image.buildkit.wire import control_pb2, gateway_grpc, gateway_pb2
from shared.errors import InvalidArgument, Unsupported

BUILD_ID = "buildkit-controlapi-buildid"
DOCKERFILE = "dockerfile.v0"


class Bridge(gateway_grpc.LLBBridgeBase):
    """Serves the clients of all builds; each call says which one it is about."""

    def __init__(self, builds: Builds, node: str, gateway: str) -> None:
        self._builds = builds
        self._node = node
        self._gateway = gateway

    async def _build(self, stream: Any) -> Build:
        ref = metadata_of(stream).get(BUILD_ID)
        if not ref:
            raise InvalidArgument(f"the call does not name its build: {BUILD_ID} is missing", field=BUILD_ID)
        return await self._builds.get(str(ref))

    @answering
    async def Ping(self, stream: Any) -> None:
        await stream.recv_message()
        await self._build(stream)
        answer = gateway_pb2.PongResponse(
            FrontendAPICaps=workers.caps(workers.FRONTEND_CAPS),
            LLBCaps=workers.caps(workers.LLB_CAPS),
            Workers=[workers.worker(self._node, self._gateway)],
        )
        await stream.send_message(answer)

    @answering
    async def Solve(self, stream: Any) -> None:
        request: gateway_pb2.SolveRequest = await stream.recv_message()
        build = await self._build(stream)
        result = await frontend(build, request)
        await stream.send_message(gateway_pb2.SolveResponse(result=result))

    @answering
    async def Evaluate(self, stream: Any) -> None:
        request: gateway_pb2.EvaluateRequest = await stream.recv_message()
        await self._build(stream)
        await evaluate([self._builds.kitchen.results.get(request.Ref)])
        await stream.send_message(gateway_pb2.EvaluateResponse())

    @answering
    async def Return(self, stream: Any) -> None:
        request: gateway_pb2.ReturnRequest = await stream.recv_message()
        build = await self._build(stream)
        if not build.returned.done():
            build.returned.set_result(request)
        await stream.send_message(gateway_pb2.ReturnResponse())

    @answering
    async def Inputs(self, stream: Any) -> None:
        await stream.recv_message()
        build = await self._build(stream)
        await stream.send_message(gateway_pb2.InputsResponse(Definitions=dict(build.request.FrontendInputs)))

    @answering
    async def Warn(self, stream: Any) -> None:
        request: gateway_pb2.WarnRequest = await stream.recv_message()
        build = await self._build(stream)
        warning = control_pb2.VertexWarning(
            vertex=request.digest, level=request.level, short=request.short, detail=request.detail, url=request.url
        )
        warning.info.CopyFrom(request.info)
        warning.ranges.extend(request.ranges)
        build.progress.warn(warning)
        await stream.send_message(gateway_pb2.WarnResponse())

    # -- looking things up ----------------------------------------------------------------------------------------

    async def _lookups(self, stream: Any) -> Lookups:
        build = await self._build(stream)
        return Lookups(await build.place(), self._builds.kitchen)

    @answering
    async def ResolveImageConfig(self, stream: Any) -> None:
        request = await stream.recv_message()
        await stream.send_message(await (await self._lookups(stream)).image_config(request))

    @answering
    async def ResolveSourceMeta(self, stream: Any) -> None:
        request = await stream.recv_message()
        await stream.send_message(await (await self._lookups(stream)).source(request))

    @answering
    async def ReadFile(self, stream: Any) -> None:
        request = await stream.recv_message()
        await stream.send_message(await (await self._lookups(stream)).read_file(request))

    @answering
    async def ReadDir(self, stream: Any) -> None:
        request = await stream.recv_message()
        await stream.send_message(await (await self._lookups(stream)).read_directory(request))

    @answering
    async def StatFile(self, stream: Any) -> None:
        request = await stream.recv_message()
        await stream.send_message(await (await self._lookups(stream)).stat(request))


async def frontend(build: Build, request: gateway_pb2.SolveRequest) -> gateway_pb2.Result:
    """Solve by a frontend. Raises Unsupported for all but the Dockerfile's."""
    if len(getattr(request.Definition, "def")):
        raise Unsupported(RAW_GRAPH, field="Definition")
    if not request.Frontend:
        return gateway_pb2.Result(ref=gateway_pb2.Ref())
    check_frontend(request.Frontend)
    if request.SourcePolicies:
        raise Unsupported("source policies are not supported by this engine", field="SourcePolicies")
    imports = tuple({"type": item.Type, **item.Attrs} for item in request.CacheImports)
    options = parse_options(request.FrontendOpt, imports)
    if options.subrequest:
        metadata = await answer_of(build, options)
        return gateway_pb2.Result(ref=gateway_pb2.Ref(), metadata=metadata)
    targets = await build.solve(options, request.FrontendInputs)
    if request.Evaluate:
        await evaluate(list(targets.values()))
    return result_of(targets, several=len(options.platforms) > 1)


def check_frontend(name: str) -> None:
    if name != DOCKERFILE:
        raise Unsupported(
            f"the frontend {name} cannot be run by this engine's builder, which has dockerfile.v0: build with a "
            "builder of `docker buildx create --driver docker-container --use`",
            field="Frontend",
        )


def result_of(targets: Mapping[str, Target], *, several: bool) -> gateway_pb2.Result:
    """Targets as a client gets them."""
    if not several:
        (target,) = targets.values()
        return gateway_pb2.Result(ref=gateway_pb2.Ref(id=target.id, **{"def": definition_of(target.id)}))
    refs = {
        name: gateway_pb2.Ref(id=target.id, **{"def": definition_of(target.id)}) for name, target in targets.items()
    }
    platforms = [{"ID": name, "Platform": _platform_json(name)} for name in targets]
    metadata = {"refs.platforms": orjson.dumps({"Platforms": platforms})}
    return gateway_pb2.Result(refs=gateway_pb2.RefMap(refs=refs), metadata=metadata)


def _platform_json(name: str) -> dict[str, str]:
    os_name, architecture, *variant = name.split("/")
    found = {"architecture": architecture, "os": os_name}
    return found | ({"variant": variant[0]} if variant else {})


def targets_of(build: Build, builds: Builds, result: gateway_pb2.Result) -> dict[str, Target]:
    """The targets that a client's result names, by platform; none for an empty one."""
    results = builds.kitchen.results
    if result.HasField("ref"):
        return {"": results.get(result.ref.id)} if result.ref.id else {}
    if result.HasField("refs"):
        return {name: results.get(ref.id) for name, ref in result.refs.refs.items() if ref.id}
    if result.HasField("refDeprecated"):
        return {"": results.get(result.refDeprecated)} if result.refDeprecated else {}
    if result.HasField("refsDeprecated"):
        return {name: results.get(ref) for name, ref in result.refsDeprecated.refs.items() if ref}
    return {}


def returned_error(request: gateway_pb2.ReturnRequest) -> str:
    return request.error.message or json.dumps({"code": request.error.code})
