"""Files in and out of containers: archive and export.

Source: Docker Engine API 1.50, ContainerArchive, ContainerArchiveInfo, PutContainerArchive, ContainerExport.
"""

from __future__ import annotations

import base64
from typing import Annotated

import orjson
from fastapi import Query
from starlette.responses import Response

from services.api.call import Call, empty_response
from services.api.copies import download, upload
from services.api.declared import ContainerName, may, streams, takes
from services.api.requests.containers import PathQuery, PutArchiveQuery
from services.api.routing import EdgeRouter
from shared.bus.handover import PipeRef
from shared.bus.streams import ByteStream
from shared.contracts import containers as contracts
from shared.contracts.containers import ArchivePath, Export, GetArchive, PathStat, PutArchive
from shared.errors import InvalidArgument

TAR = "application/x-tar"
OCTETS = "application/octet-stream"


router = EdgeRouter("Container")


def path_of(query: PathQuery) -> str:
    if not query.path:
        raise InvalidArgument("bad parameter: path cannot be empty", field="path")
    return query.path


def stat_headers(stat: PathStat) -> dict[str, str]:
    content = {
        "name": stat.name,
        "size": stat.size,
        "mode": stat.mode,
        "mtime": stat.mtime,
        "linkTarget": stat.link_target,
    }
    return {"X-Docker-Container-Path-Stat": base64.b64encode(orjson.dumps(content)).decode()}


@router.head(
    "/containers/{ref}/archive",
    operation_id="ContainerArchiveInfo",
    response_class=Response,
    responses=may(404),
)
async def stat(call: Call, ref: ContainerName, query: Annotated[PathQuery, Query()]) -> Response:
    """What is at a path in a container, in a header."""
    result = await call.ask(contracts.STAT_PATH, ArchivePath(ref=ref, path=path_of(query)))
    return Response(status_code=200, headers=stat_headers(result))


@router.get(
    "/containers/{ref}/archive",
    operation_id="ContainerArchive",
    response_class=Response,
    responses=streams(TAR, "An archive.") | may(404),
)
async def get(call: Call, ref: ContainerName, query: Annotated[PathQuery, Query()]) -> Response:
    """An archive of a path in a container."""
    path = path_of(query)

    async def ask(stream: ByteStream, pipe: PipeRef) -> PathStat:
        request = GetArchive(ref=ref, path=path, stream=stream.ref, pipe=pipe)
        return await call.ask(contracts.GET_ARCHIVE, request)

    return await download(call, ask, media_type=TAR, headers=stat_headers)


@router.put(
    "/containers/{ref}/archive",
    operation_id="PutContainerArchive",
    response_class=Response,
    responses=may(403, 404),
    openapi_extra=takes(TAR, OCTETS, description="An archive."),
)
async def put(call: Call, ref: ContainerName, query: Annotated[PutArchiveQuery, Query()]) -> Response:
    """Extract an archive below a directory in a container."""
    path = path_of(query)

    async def ask(stream: ByteStream, pipe: PipeRef) -> None:
        await call.ask(
            contracts.PUT_ARCHIVE,
            PutArchive(
                ref=ref,
                path=path,
                stream=stream.ref,
                pipe=pipe,
                no_overwrite_dir_non_dir=query.no_overwrite_dir_non_dir,
                copy_uid_gid=query.copy_uid_gid,
            ),
        )

    await upload(call, ask)
    return empty_response(200)


@router.get(
    "/containers/{ref}/export",
    operation_id="ContainerExport",
    response_class=Response,
    responses=streams(OCTETS, "An archive.") | may(404),
)
async def export(call: Call, ref: ContainerName) -> Response:
    """An archive of all of a container's files."""

    async def ask(stream: ByteStream, pipe: PipeRef) -> None:
        await call.ask(contracts.EXPORT, Export(ref=ref, stream=stream.ref, pipe=pipe))

    return await download(call, ask, media_type=OCTETS)
