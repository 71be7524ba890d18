"""/images, /commit and /distribution.

Source: Docker Engine API 1.50, Image, Distribution.
"""

from __future__ import annotations

from functools import partial

from starlette.responses import Response

from services.api import credentials
from services.api.call import Call, Routes, empty_response, json_response
from services.api.streaming import download_response, progress_response, upload_body
from services.api.views import images as views
from shared.bus.streams import ByteStream
from shared.contracts import containers as container_contracts
from shared.contracts import images as contracts
from shared.contracts.docker import ContainerConfig
from shared.contracts.images import ImageRef
from shared.docker.filters import Filters
from shared.errors import InvalidArgument

TAR = "application/x-tar"
DEFAULT_SEARCH_LIMIT = 25

# The API versions that tell what a name stands for, when asked for it.
LIST_WITH_MANIFESTS = (1, 47)
INSPECT_WITH_MANIFESTS = (1, 48)


def has_tag_or_digest(reference: str) -> bool:
    return "@" in reference or ":" in reference.rpartition("/")[2]


def with_tag(name: str, tag: str) -> str:
    """``busybox`` and ``1.36`` or ``sha256:…`` as one reference. A tag replaces the one in the name."""
    if not tag:
        return name
    if ":" in tag:
        return f"{name.partition('@')[0]}@{tag}"
    head, slash, last = name.rpartition("/")
    return f"{head}{slash}{last.partition(':')[0]}:{tag}"


def platform_of(call: Call) -> str | None:
    return call.params.text("platform") or None


async def create(call: Call) -> Response:
    """Pull (fromImage) or import (fromSrc)."""
    return await (pull(call) if call.params.text("fromImage") else import_image(call))


async def pull(call: Call) -> Response:
    name, tag = call.params.text("fromImage").removesuffix(":"), call.params.text("tag")
    auth = credentials.from_header(call.headers.get(credentials.HEADER_AUTH))

    async def ask(stream: ByteStream) -> None:
        await call.ask(
            contracts.PULL,
            contracts.PullImage(
                stream=stream.ref,
                ref=with_tag(name, tag),
                all_tags=not tag and not has_tag_or_digest(name),
                platform=platform_of(call),
                auth=auth,
            ),
        )

    return await progress_response(call, ask)


async def import_image(call: Call) -> Response:
    params = call.params
    source = params.text("fromSrc")
    if not source:
        raise InvalidArgument("one of fromImage and fromSrc is needed", field="fromSrc")

    async def ask(stream: ByteStream) -> None:
        await call.ask(
            contracts.IMPORT,
            contracts.ImportImage(
                stream=stream.ref,
                source=source,
                repo=params.text("repo"),
                tag=params.text("tag"),
                message=params.text("message"),
                changes=params.all("changes"),
                platform=platform_of(call),
            ),
        )

    return await progress_response(call, ask, upload=partial(upload_body, call) if source == "-" else None)


async def load(call: Call) -> Response:
    async def ask(stream: ByteStream) -> None:
        await call.ask(
            contracts.LOAD,
            contracts.LoadImages(
                stream=stream.ref, quiet=call.params.flag("quiet"), platforms=call.params.all("platform")
            ),
        )

    return await progress_response(call, ask, upload=partial(upload_body, call))


async def _save(call: Call, names: list[str]) -> Response:
    async def ask(stream: ByteStream) -> None:
        platforms = call.params.all("platform")
        await call.ask(contracts.SAVE, contracts.SaveImages(stream=stream.ref, names=names, platforms=platforms))

    return await download_response(call, ask, media_type=TAR)


async def save_one(call: Call) -> Response:
    return await _save(call, [call.path("name")])


async def save_many(call: Call) -> Response:
    return await _save(call, call.params.all("names"))


async def push(call: Call) -> Response:
    name, tag = call.path("name"), call.params.text("tag")
    auth = credentials.from_header(call.headers.get(credentials.HEADER_AUTH))

    async def ask(stream: ByteStream) -> None:
        await call.ask(
            contracts.PUSH,
            contracts.PushImage(
                stream=stream.ref, ref=name, tag=tag, all_tags=not tag, platform=platform_of(call), auth=auth
            ),
        )

    return await progress_response(call, ask)


async def list_all(call: Call) -> Response:
    params = call.params
    filters: Filters = params.filters()
    if call.version < (1, 41) and params.text("filter"):  # how the API named a reference filter before
        filters["reference"] = [*filters.get("reference", []), params.text("filter")]
    result = await call.ask(
        contracts.LIST,
        contracts.ListImages(
            all=params.flag("all"),
            filters=filters,
            shared_size=params.flag("shared-size"),
            digests=params.flag("digests"),
            manifests=params.flag("manifests") and call.version >= LIST_WITH_MANIFESTS,
        ),
    )
    return json_response([views.summary(item, call.version) for item in result.images])


async def inspect(call: Call) -> Response:
    manifests = call.params.flag("manifests") and call.version >= INSPECT_WITH_MANIFESTS
    request = contracts.InspectImage(ref=call.path("name"), platform=platform_of(call), manifests=manifests)
    image = await call.ask(contracts.INSPECT, request)
    return json_response(views.image(image, call.version, call.deps.facts.data_root))


async def history(call: Call) -> Response:
    result = await call.ask(contracts.HISTORY, ImageRef(ref=call.path("name"), platform=platform_of(call)))
    return json_response([views.history(entry) for entry in result.entries])


async def tag(call: Call) -> Response:
    params = call.params
    await call.ask(
        contracts.TAG, contracts.TagImage(ref=call.path("name"), repo=params.text("repo"), tag=params.text("tag"))
    )
    return empty_response(201)


async def remove(call: Call) -> Response:
    params = call.params
    result = await call.ask(
        contracts.REMOVE,
        contracts.RemoveImage(
            ref=call.path("name"),
            force=params.flag("force"),
            no_prune=params.flag("noprune"),
            platforms=params.all("platforms"),
        ),
    )
    return json_response(views.removals(result))


async def prune(call: Call) -> Response:
    result = await call.ask(contracts.PRUNE, contracts.PruneImages(filters=call.params.filters()))
    return json_response(
        {"ImagesDeleted": views.removals(result) or None, "SpaceReclaimed": result.space_reclaimed_bytes}
    )


async def search(call: Call) -> Response:
    params = call.params
    hits = await call.ask(
        contracts.SEARCH,
        contracts.SearchRequest(
            term=params.text("term"),
            limit=params.integer("limit", DEFAULT_SEARCH_LIMIT),
            filters=params.filters(),
            auth=credentials.from_header(call.headers.get(credentials.HEADER_AUTH)),
        ),
    )
    return json_response(views.search(hits))


async def commit(call: Call) -> Response:
    config = await call.optional_json_body(ContainerConfig)
    params = call.params
    result = await call.ask(
        container_contracts.COMMIT,
        container_contracts.Commit(
            ref=params.text("container"),
            repo=params.text("repo"),
            tag=params.text("tag"),
            comment=params.text("comment"),
            author=params.text("author"),
            pause=params.flag("pause", True),
            changes=params.all("changes"),
            config=config if config is not None and config.model_fields_set else None,
        ),
    )
    return json_response({"Id": result.id}, 201)


async def distribution(call: Call) -> Response:
    result = await call.ask(
        contracts.DISTRIBUTION,
        contracts.DistributionRequest(
            ref=call.path("name"), auth=credentials.from_header(call.headers.get(credentials.HEADER_AUTH))
        ),
    )
    return json_response(views.distribution(result))


# Names hold slashes; the fixed paths come first.
ROUTES: Routes = (
    ("GET", "/images/json", list_all),
    ("GET", "/images/search", search),
    ("GET", "/images/get", save_many),
    ("POST", "/images/load", load),
    ("POST", "/images/create", create),
    ("POST", "/images/prune", prune),
    ("GET", "/images/{name:path}/json", inspect),
    ("GET", "/images/{name:path}/history", history),
    ("GET", "/images/{name:path}/get", save_one),
    ("POST", "/images/{name:path}/push", push),
    ("POST", "/images/{name:path}/tag", tag),
    ("DELETE", "/images/{name:path}", remove),
    ("POST", "/commit", commit),
    ("GET", "/distribution/{name:path}/json", distribution),
)
