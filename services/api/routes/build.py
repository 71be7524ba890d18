"""/build: Dockerfile builds, without BuildKit.

Source: Docker Engine API 1.50, ImageBuild, BuildPrune.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from fastapi import Query
from starlette.responses import Response

from services.api import credentials
from services.api.answers.images import BuildCachePruned, ProgressLine
from services.api.call import Call, json_response
from services.api.declared import lines, may, takes
from services.api.received import send_body
from services.api.requests.images import BuildCancelQuery, BuildPruneQuery, BuildQuery
from services.api.routing import EdgeRouter
from services.api.streaming import drain, progress_response, upload_body
from shared.bus.handover import FIELD, PipeRef, Sender
from shared.bus.streams import ByteStream
from shared.contracts import images as contracts
from shared.errors import DavitError, InvalidArgument, Unavailable, Unsupported

BUILDKIT = "2"
CONTEXT = takes("application/x-tar", "application/octet-stream", description="The context, an archive.", required=False)

router = EdgeRouter("Image")


def string_list(name: str, value: Any) -> list[str]:
    value = [] if value is None else value
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InvalidArgument(f"invalid value for {name}: not a list of strings", field=name)
    return value


def string_map(name: str, value: Any, *, nullable: bool = False) -> dict[str, Any]:
    value = {} if value is None else value
    kinds = (str, type(None)) if nullable else (str,)
    if not isinstance(value, dict) or not all(isinstance(item, kinds) for item in value.values()):
        raise InvalidArgument(f"invalid value for {name}: not an object of strings", field=name)
    return value


def ulimits(value: Any) -> list[dict[str, int | str]]:
    value = [] if value is None else value
    try:
        return [{"Name": str(item["Name"]), "Soft": int(item["Soft"]), "Hard": int(item["Hard"])} for item in value]
    except (TypeError, KeyError, ValueError) as error:
        raise InvalidArgument("invalid value for ulimits: not a list of {Name, Soft, Hard}", field="ulimits") from error


def build_request(
    call: Call, query: BuildQuery, stream: ByteStream, context: PipeRef | None = None
) -> contracts.BuildImage:
    return contracts.BuildImage(
        stream=stream.ref,
        context=context,
        dockerfile=query.dockerfile or "Dockerfile",
        tags=query.t,
        extra_hosts=[host for text in query.extra_hosts for host in text.split(",") if host],
        remote=query.remote,
        quiet=query.q,
        no_cache=query.no_cache,
        cache_from=string_list("cachefrom", query.cache_from),
        pull=query.pull,
        rm=query.rm,
        force_rm=query.force_rm,
        memory_bytes=query.memory,
        memory_swap_bytes=query.memory_swap,
        cpu_shares=query.cpu_shares,
        cpuset_cpus=query.cpuset_cpus,
        cpuset_mems=query.cpuset_mems,
        cpu_period=query.cpu_period,
        cpu_quota=query.cpu_quota,
        cgroup_parent=query.cgroup_parent,
        build_args=string_map("buildargs", query.build_args, nullable=True),
        shm_size_bytes=query.shm_size,
        ulimits=ulimits(query.ulimits),
        labels=string_map("labels", query.labels),
        network_mode=query.network_mode,
        platform=query.platform,
        target=query.target,
        isolation=query.isolation,
        security_opt=query.security_opt,
        squash=query.squash,
        secrets=credentials.build_secrets(call.headers.get(credentials.HEADER_SECRETS)),
        auths=credentials.from_config_header(call.headers.get(credentials.HEADER_CONFIG)),
    )


@router.post(
    "/build",
    operation_id="ImageBuild",
    response_class=Response,
    responses=lines(ProgressLine, "What is done, and what fails.") | may(404, 501),
    openapi_extra=CONTEXT,
)
async def build(call: Call, query: Annotated[BuildQuery, Query()]) -> Response:
    """Build an image of a Dockerfile and its context. Progress, and what fails, come as JSON lines."""
    if query.version == BUILDKIT:
        raise Unsupported(
            "this engine does not serve BuildKit: build with DOCKER_BUILDKIT=0, without buildx", field="version"
        )
    if query.outputs:
        raise Unsupported("build outputs need BuildKit, which this engine does not serve", field="outputs")
    if query.remote:
        return await progress_response(call, partial(_ask, call, query))
    context = _Context(call, query)
    try:
        return await progress_response(call, context.ask, upload=context.send)
    except DavitError:
        await drain(call, whole=True)  # contexts are large, and a client that still sends would hear of nothing else
        raise
    finally:
        if not context.sending:
            context.close()


async def _ask(call: Call, query: BuildQuery, stream: ByteStream, pipe: PipeRef | None = None) -> None:
    await call.ask(contracts.BUILD, build_request(call, query, stream, pipe))


class _Context:
    """A request's body on its way to a builder: through a pipe, and on the stream to one on another machine."""

    def __init__(self, call: Call, query: BuildQuery) -> None:
        self._call = call
        self._query = query
        self._pipe: Sender | None = None
        self.sending = False

    async def ask(self, stream: ByteStream) -> None:
        self._pipe = Sender()
        try:
            await _ask(self._call, self._query, stream, self._pipe.ref())
            self._pipe.taken()
        except Unavailable as error:
            if error.detail.get("field") != FIELD:
                raise
            self.close()
            await _ask(self._call, self._query, stream)

    async def send(self, stream: ByteStream) -> None:
        if self._pipe is None:
            await upload_body(self._call, stream)
            return
        self.sending = True
        try:
            await send_body(self._call, self._pipe)
            await stream.close_write()  # says that the body was whole
        finally:
            self.close()

    def close(self) -> None:
        if self._pipe is not None:
            self._pipe.close()
        self._pipe = None


@router.post("/build/prune", operation_id="BuildPrune", response_model=BuildCachePruned, responses=may(501))
async def prune(call: Call, query: Annotated[BuildPruneQuery, Query()]) -> Response:
    """Remove what builds have kept for later ones."""
    for name, value in (("max-used-space", query.max_used_space), ("min-free-space", query.min_free_space)):
        if value:
            raise Unsupported(f"{name} is not supported by this engine: use reserved-space", field=name)
    result = await call.ask(
        contracts.BUILD_PRUNE,
        contracts.BuildCachePrune(
            all=query.all,
            filters=query.filters,
            keep_storage_bytes=query.keep_storage or query.reserved_space,
        ),
    )
    return json_response({"CachesDeleted": result.deleted or None, "SpaceReclaimed": result.space_reclaimed_bytes})


@router.post("/build/cancel", operation_id="BuildCancel", status_code=204, responses=may(501))
async def cancel(call: Call, query: Annotated[BuildCancelQuery, Query()]) -> Response:
    """Not supported: BuildKit's. Builds here end when their client leaves."""
    raise Unsupported("builds are cancelled by ending their request", field="id")
