"""/build: Dockerfile builds, without BuildKit.

Source: Docker Engine API 1.50, ImageBuild, BuildPrune.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from starlette.responses import Response

from services.api import credentials
from services.api.call import Call, Routes, json_response
from services.api.received import send_body
from services.api.streaming import drain, progress_response, upload_body
from shared.bus.handover import FIELD, PipeRef, Sender
from shared.bus.streams import ByteStream
from shared.contracts import images as contracts
from shared.errors import DavitError, InvalidArgument, Unavailable, Unsupported

BUILDKIT = "2"
CONTEXT_TYPES = ("application/x-tar", "application/tar", "application/octet-stream", "")


def string_list(call: Call, name: str) -> list[str]:
    value = call.params.json(name, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InvalidArgument(f"invalid value for {name}: not a list of strings", field=name)
    return value


def string_map(call: Call, name: str, *, nullable: bool = False) -> dict[str, Any]:
    value = call.params.json(name, {})
    kinds = (str, type(None)) if nullable else (str,)
    if not isinstance(value, dict) or not all(isinstance(item, kinds) for item in value.values()):
        raise InvalidArgument(f"invalid value for {name}: not an object of strings", field=name)
    return value


def ulimits(call: Call) -> list[dict[str, int | str]]:
    value = call.params.json("ulimits", [])
    try:
        return [{"Name": str(item["Name"]), "Soft": int(item["Soft"]), "Hard": int(item["Hard"])} for item in value]
    except (TypeError, KeyError, ValueError) as error:
        raise InvalidArgument("invalid value for ulimits: not a list of {Name, Soft, Hard}", field="ulimits") from error


def build_request(call: Call, stream: ByteStream, context: PipeRef | None = None) -> contracts.BuildImage:
    params = call.params
    return contracts.BuildImage(
        stream=stream.ref,
        context=context,
        dockerfile=params.text("dockerfile") or "Dockerfile",
        tags=params.all("t"),
        extra_hosts=[host for text in params.all("extrahosts") for host in text.split(",") if host],
        remote=params.text("remote"),
        quiet=params.flag("q"),
        no_cache=params.flag("nocache"),
        cache_from=string_list(call, "cachefrom"),
        pull=params.flag("pull"),
        rm=params.flag("rm", True),
        force_rm=params.flag("forcerm"),
        memory_bytes=params.integer("memory"),
        memory_swap_bytes=params.integer("memswap"),
        cpu_shares=params.integer("cpushares"),
        cpuset_cpus=params.text("cpusetcpus"),
        cpuset_mems=params.text("cpusetmems"),
        cpu_period=params.integer("cpuperiod"),
        cpu_quota=params.integer("cpuquota"),
        cgroup_parent=params.text("cgroupparent"),
        build_args=string_map(call, "buildargs", nullable=True),
        shm_size_bytes=params.integer("shmsize"),
        ulimits=ulimits(call),
        labels=string_map(call, "labels"),
        network_mode=params.text("networkmode"),
        platform=params.text("platform"),
        target=params.text("target"),
        isolation=params.text("isolation"),
        security_opt=params.all("securityopt"),
        squash=params.flag("squash"),
        secrets=credentials.build_secrets(call.headers.get(credentials.HEADER_SECRETS)),
        auths=credentials.from_config_header(call.headers.get(credentials.HEADER_CONFIG)),
    )


async def build(call: Call) -> Response:
    params = call.params
    if params.text("version") == BUILDKIT:
        raise Unsupported(
            "this engine does not serve BuildKit: build with DOCKER_BUILDKIT=0, without buildx", field="version"
        )
    if params.text("outputs"):
        raise Unsupported("build outputs need BuildKit, which this engine does not serve", field="outputs")
    kind = call.headers.get("content-type", "").split(";", 1)[0]
    if kind not in CONTEXT_TYPES and not params.text("remote"):
        raise InvalidArgument(f"unsupported Content-Type header ({kind}): must be 'application/x-tar'")

    if params.text("remote"):
        return await progress_response(call, partial(_ask, call))
    context = _Context(call)
    try:
        return await progress_response(call, context.ask, upload=context.send)
    except DavitError:
        await drain(call, whole=True)  # contexts are large, and a client that still sends would hear of nothing else
        raise
    finally:
        if not context.sending:
            context.close()


async def _ask(call: Call, stream: ByteStream, pipe: PipeRef | None = None) -> None:
    await call.ask(contracts.BUILD, build_request(call, stream, pipe))


class _Context:
    """A request's body on its way to a builder: through a pipe, and on the stream to one on another machine."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._pipe: Sender | None = None
        self.sending = False

    async def ask(self, stream: ByteStream) -> None:
        self._pipe = Sender()
        try:
            await _ask(self._call, stream, self._pipe.ref())
            self._pipe.taken()
        except Unavailable as error:
            if error.detail.get("field") != FIELD:
                raise
            self.close()
            await _ask(self._call, stream)

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


async def prune(call: Call) -> Response:
    params = call.params
    for name in ("max-used-space", "min-free-space"):
        if params.integer(name):
            raise Unsupported(f"{name} is not supported by this engine: use reserved-space", field=name)
    result = await call.ask(
        contracts.BUILD_PRUNE,
        contracts.BuildCachePrune(
            all=params.flag("all"),
            filters=params.filters(),
            keep_storage_bytes=params.integer("keep-storage") or params.integer("reserved-space"),
        ),
    )
    return json_response({"CachesDeleted": result.deleted or None, "SpaceReclaimed": result.space_reclaimed_bytes})


async def cancel(call: Call) -> Response:
    """BuildKit's; builds here end when their client leaves."""
    raise Unsupported("builds are cancelled by ending their request", field="id")


ROUTES: Routes = (
    ("POST", "/build", build),
    ("POST", "/build/prune", prune),
    ("POST", "/build/cancel", cancel),
)
