"""/images, /commit and /distribution.

Source: Docker Engine API 1.50, Image, Distribution.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import Query
from starlette.responses import Response

from services.api.answers import images as answers
from services.api.answers.containers import Identified
from services.api.call import Call, empty_response, json_response
from services.api.credentials import from_header
from services.api.declared import ImageName, RegistryAuthHeader, lines, may, streams, takes
from services.api.requests import images as requests
from services.api.routing import EdgeRouter
from services.api.streaming import download_response, progress_response, upload_body
from services.api.views import images as views
from shared.bus.streams import ByteStream
from shared.contracts import containers as container_contracts
from shared.contracts import images as contracts
from shared.contracts.docker import ContainerConfig
from shared.contracts.images import ImageRef
from shared.docker.filters import Filters
from shared.errors import InvalidArgument, Unsupported

TAR = "application/x-tar"
TAR_TYPES = (TAR, "application/octet-stream")
PROGRESS = lines(answers.ProgressLine, "What is done, and what fails.")
TARS = streams(TAR, "An archive.") | may(404)

# Names hold slashes; the fixed paths come first.
router = EdgeRouter("Image")


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


@router.get("/images/json", operation_id="ImageList", response_model=list[answers.ImageSummary], responses=may())
async def list_all(call: Call, query: Annotated[requests.ListQuery, Query()]) -> Response:
    """The images."""
    filters: Filters = query.filters
    if query.filter:  # how the API named a reference filter before
        filters["reference"] = [*filters.get("reference", []), query.filter]
    request = contracts.ListImages(
        all=query.all,
        filters=filters,
        shared_size=query.shared_size,
        digests=query.digests,
        manifests=query.manifests or query.identity,
    )

    async def ask() -> object:
        result = await call.ask(contracts.LIST, request)
        return [views.summary(item, call.version) for item in result.images]

    # Manifests tell which containers use them and what of them is on the disk; "until" is a moment before now.
    return await call.read_json(("image",), ask, keep=not request.manifests and "until" not in filters)


@router.get("/images/search", operation_id="ImageSearch", response_model=list[answers.SearchHit], responses=may(404))
async def search(
    call: Call, query: Annotated[requests.SearchQuery, Query()], auth: RegistryAuthHeader = ""
) -> Response:
    """Search Docker Hub."""
    hits = await call.ask(
        contracts.SEARCH,
        contracts.SearchRequest(term=query.term, limit=query.limit, filters=query.filters, auth=from_header(auth)),
    )
    return json_response(views.search(hits))


@router.get("/images/get", operation_id="ImageGetAll", response_class=Response, responses=TARS)
async def save_many(call: Call, query: Annotated[requests.SaveManyQuery, Query()]) -> Response:
    """An archive of several images."""
    return await _save(call, query.names, query.platform)


@router.get("/images/{name:path}/get", operation_id="ImageGet", response_class=Response, responses=TARS)
async def save_one(call: Call, name: ImageName, query: Annotated[requests.SaveQuery, Query()]) -> Response:
    """An archive of one image, or of all with a name."""
    return await _save(call, [name], query.platform)


async def _save(call: Call, names: list[str], platforms: list[str]) -> Response:
    async def ask(stream: ByteStream) -> None:
        await call.ask(contracts.SAVE, contracts.SaveImages(stream=stream.ref, names=names, platforms=platforms))

    return await download_response(call, ask, media_type=TAR)


@router.post(
    "/images/load",
    operation_id="ImageLoad",
    response_class=Response,
    responses=PROGRESS | may(),
    openapi_extra=takes(*TAR_TYPES, description="An archive of images."),
)
async def load(call: Call, query: Annotated[requests.LoadQuery, Query()]) -> Response:
    """Take images from an archive that save, or another tool, has made."""

    async def ask(stream: ByteStream) -> None:
        await call.ask(
            contracts.LOAD,
            contracts.LoadImages(stream=stream.ref, quiet=query.quiet, platforms=query.platform),
        )

    return await progress_response(call, ask, upload=partial(upload_body, call), promised=True)


@router.post(
    "/images/create",
    operation_id="ImageCreate",
    response_class=Response,
    responses=PROGRESS | may(404),
    openapi_extra=takes(*TAR_TYPES, description="A file system to import.", required=False),
)
async def create(
    call: Call, query: Annotated[requests.CreateQuery, Query()], auth: RegistryAuthHeader = ""
) -> Response:
    """Pull (fromImage) or import (fromSrc) an image. Progress, and what fails, come as JSON lines."""
    return await (pull(call, query, auth) if query.from_image else import_image(call, query))


async def pull(call: Call, query: requests.CreateQuery, auth: str) -> Response:
    name, tag = query.from_image.removesuffix(":"), query.tag
    credentials = from_header(auth)

    async def ask(stream: ByteStream) -> None:
        await call.ask(
            contracts.PULL,
            contracts.PullImage(
                stream=stream.ref,
                ref=with_tag(name, tag),
                all_tags=not tag and not has_tag_or_digest(name),
                platform=query.platform or None,
                auth=credentials,
            ),
        )

    return await progress_response(call, ask)


async def import_image(call: Call, query: requests.CreateQuery) -> Response:
    if not query.from_src:
        raise InvalidArgument("one of fromImage and fromSrc is needed", field="fromSrc")

    async def ask(stream: ByteStream) -> None:
        await call.ask(
            contracts.IMPORT,
            contracts.ImportImage(
                stream=stream.ref,
                source=query.from_src,
                repo=query.repo,
                tag=query.tag,
                message=query.message,
                changes=query.changes,
                platform=query.platform or None,
            ),
        )

    return await progress_response(call, ask, upload=partial(upload_body, call) if query.from_src == "-" else None)


@router.post("/images/prune", operation_id="ImagePrune", response_model=answers.ImagesPruned, responses=may())
async def prune(call: Call, query: Annotated[requests.FiltersQuery, Query()]) -> Response:
    """Remove the images that have no name, or that no container uses."""
    result = await call.ask(contracts.PRUNE, contracts.PruneImages(filters=query.filters))
    return json_response(
        {"ImagesDeleted": views.removals(result) or None, "SpaceReclaimed": result.space_reclaimed_bytes}
    )


@router.get(
    "/images/{name:path}/json",
    operation_id="ImageInspect",
    response_model=answers.ImageInspect,
    responses=may(404),
)
async def inspect(call: Call, name: ImageName, query: Annotated[requests.InspectQuery, Query()]) -> Response:
    """All about an image."""
    request = contracts.InspectImage(ref=name, platform=query.platform or None, manifests=query.manifests)

    async def ask() -> object:
        image = await call.ask(contracts.INSPECT, request)
        return views.image(image, call.version, call.deps.facts.data_root)

    return await call.read_json(("image",), ask, keep=not query.manifests)


@router.get(
    "/images/{name:path}/history",
    operation_id="ImageHistory",
    response_model=list[answers.HistoryStep],
    responses=may(404),
)
async def history(call: Call, name: ImageName, query: Annotated[requests.HistoryQuery, Query()]) -> Response:
    """How an image was made, the last step first."""
    result = await call.ask(contracts.HISTORY, ImageRef(ref=name, platform=query.platform or None))
    return json_response([views.history(entry) for entry in result.entries])


@router.get("/images/{name:path}/attestations", operation_id="ImageAttestations", responses=may(404, 501))
async def attestations(call: Call, name: ImageName) -> Response:
    """Not supported: what others have said of an image is not kept when it is pulled."""
    await call.ask(contracts.INSPECT, contracts.InspectImage(ref=name))
    raise Unsupported("attestations of images are not kept by this engine", field="attestations")


@router.post(
    "/images/{name:path}/push", operation_id="ImagePush", response_class=Response, responses=PROGRESS | may(404)
)
async def push(
    call: Call, name: ImageName, query: Annotated[requests.PushQuery, Query()], auth: RegistryAuthHeader = ""
) -> Response:
    """Send an image to its registry. Progress, and what fails, come as JSON lines."""
    credentials = from_header(auth)

    async def ask(stream: ByteStream) -> None:
        await call.ask(
            contracts.PUSH,
            contracts.PushImage(
                stream=stream.ref,
                ref=name,
                tag=query.tag,
                all_tags=not query.tag,
                platform=query.platform or None,
                auth=credentials,
            ),
        )

    return await progress_response(call, ask)


@router.post(
    "/images/{name:path}/tag",
    operation_id="ImageTag",
    status_code=201,
    response_class=Response,
    responses=may(404, 409),
)
async def tag(call: Call, name: ImageName, query: Annotated[requests.TagQuery, Query()]) -> Response:
    """Give an image another name."""
    await call.ask(contracts.TAG, contracts.TagImage(ref=name, repo=query.repo, tag=query.tag))
    return empty_response(201)


@router.delete(
    "/images/{name:path}",
    operation_id="ImageDelete",
    response_model=list[answers.Removal],
    responses=may(404, 409),
)
async def remove(call: Call, name: ImageName, query: Annotated[requests.RemoveQuery, Query()]) -> Response:
    """Take a name from an image, and remove it when that was the last."""
    result = await call.ask(
        contracts.REMOVE,
        contracts.RemoveImage(ref=name, force=query.force, no_prune=query.no_prune, platforms=query.platforms),
    )
    return json_response(views.removals(result))


@router.post("/commit", operation_id="ImageCommit", response_model=Identified, status_code=201, responses=may(404, 409))
async def commit(
    call: Call, query: Annotated[requests.CommitQuery, Query()], body: ContainerConfig | None = None
) -> Response:
    """Make an image of a container's files and configuration."""
    result = await call.ask(
        container_contracts.COMMIT,
        container_contracts.Commit(
            ref=query.container,
            repo=query.repo,
            tag=query.tag,
            comment=query.comment,
            author=query.author,
            pause=query.pause,
            changes=query.changes,
            config=body if body is not None and body.model_fields_set else None,
        ),
    )
    return json_response({"Id": result.id}, 201)


@router.get(
    "/distribution/{name:path}/json",
    operation_id="DistributionInspect",
    response_model=answers.DistributionInspect,
    responses=may(401, 403, 404),
)
async def distribution(call: Call, name: ImageName, auth: RegistryAuthHeader = "") -> Response:
    """What a registry has under a name."""
    result = await call.ask(contracts.DISTRIBUTION, contracts.DistributionRequest(ref=name, auth=from_header(auth)))
    return json_response(views.distribution(result))
