"""Control: what clients ask of the engine about builds.

Source: moby/buildkit, control/control.go (what each call has to answer).
"""

from __future__ import annotations

from typing import Any

from grpclib import GRPCError
from grpclib.const import Status

from services.image.buildkit import tunnel, workers
from services.image.buildkit.bridge import check_frontend, frontend, targets_of
from services.image.buildkit.builds import Build, Builds
from services.image.buildkit.calls import answering
from services.image.buildkit.definitions import RAW_GRAPH
from services.image.buildkit.exporting import export
from services.image.buildkit.history import History
from services.image.buildkit.transport import metadata_of
from services.image.buildkit.usage import Usage
from services.image.buildkit.wire import control_grpc, control_pb2, gateway_pb2
from shared.docker.moments import rfc3339_now
from shared.errors import Unsupported

TIMESTAMP = "buildkit-current-timestamp"


class Control(control_grpc.ControlBase):
    """Serves all clients."""

    def __init__(self, builds: Builds, usage: Usage, history: History, node: str, gateway: str) -> None:
        self._builds = builds
        self._usage = usage
        self._history = history
        self._node = node
        self._gateway = gateway

    @answering
    async def ListWorkers(self, stream: Any) -> None:
        await stream.recv_message()
        record = workers.worker(self._node, self._gateway)
        await stream.send_message(control_pb2.ListWorkersResponse(record=[record]))

    @answering
    async def Info(self, stream: Any) -> None:
        await stream.recv_message()
        await stream.send_message(control_pb2.InfoResponse(buildkitVersion=workers.version()))

    @answering
    async def DiskUsage(self, stream: Any) -> None:
        request: control_pb2.DiskUsageRequest = await stream.recv_message()
        records = await self._usage.records(request)
        await stream.send_message(control_pb2.DiskUsageResponse(record=records))

    @answering
    async def Prune(self, stream: Any) -> None:
        request: control_pb2.PruneRequest = await stream.recv_message()
        async for record in self._usage.prune(request):
            await stream.send_message(record)

    @answering
    async def ListenBuildHistory(self, stream: Any) -> None:
        request: control_pb2.BuildHistoryRequest = await stream.recv_message()
        async for event in self._history.listen(request):
            await stream.send_message(event)

    @answering
    async def UpdateBuildHistory(self, stream: Any) -> None:
        request: control_pb2.UpdateBuildHistoryRequest = await stream.recv_message()
        await self._history.update(request)
        await stream.send_message(control_pb2.UpdateBuildHistoryResponse())

    @answering
    async def Session(self, stream: Any) -> None:
        await tunnel.serve(stream, metadata_of(stream), self._builds.kitchen.sessions)

    # -- builds -----------------------------------------------------------------------------------------------------

    @answering
    async def Status(self, stream: Any) -> None:
        request: control_pb2.StatusRequest = await stream.recv_message()
        await stream.send_initial_metadata(metadata={TIMESTAMP: rfc3339_now(9)})
        if not self._builds.known(request.Ref) and (past := await self._history.progress(request.Ref)):
            for response in past:
                await stream.send_message(response)
            return
        async for response in self._builds.progress(request.Ref).follow():
            await stream.send_message(response)

    @answering
    async def Solve(self, stream: Any) -> None:
        request: control_pb2.SolveRequest = await stream.recv_message()
        check(request)
        async with self._builds.begin(request) as build, self._history.recording(build) as outcome:
            answer = outcome.answer = await self._carry_out(build)
        await stream.send_message(control_pb2.SolveResponse(ExporterResponse=answer))

    async def _carry_out(self, build: Build) -> dict[str, str]:
        request = build.request
        if request.Frontend:
            check_frontend(request.Frontend)
            solve = gateway_pb2.SolveRequest(
                Frontend=request.Frontend, FrontendOpt=request.FrontendAttrs, FrontendInputs=request.FrontendInputs
            )
            result = await frontend(build, solve)
        else:
            returned = await build.returned
            if returned.HasField("error"):
                raise given_back(returned)
            result = returned.result
        return await export(build, targets_of(build, self._builds, result))


def given_back(returned: gateway_pb2.ReturnRequest) -> GRPCError:
    """An error that the client says its build has ended with, as it gets it back."""
    error = returned.error
    try:
        status = Status(error.code)
    except ValueError:
        status = Status.UNKNOWN
    return GRPCError(status, error.message, [(item.type_url, item.value) for item in error.details])


def check(request: control_pb2.SolveRequest) -> None:
    """Raises Unsupported for what is not done here, naming the field."""
    if len(getattr(request.Definition, "def")):
        raise Unsupported(RAW_GRAPH, field="Definition")
    if request.HasField("SourcePolicy"):
        raise Unsupported("source policies are not supported by this engine", field="SourcePolicy")
    unknown = set(request.Entitlements) - {"security.insecure", "network.host"}
    if unknown:
        name = sorted(unknown)[0]
        raise Unsupported(f"the entitlement {name} is not supported by this engine", field="Entitlements")
