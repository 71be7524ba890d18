"""Files in and out of containers: archive and export.

Source: Docker Engine API 1.50, ContainerArchive, ContainerArchiveInfo, PutContainerArchive, ContainerExport.
"""

from __future__ import annotations

import base64

import orjson
from starlette.responses import Response

from services.api.call import Call, Routes, empty_response
from services.api.copies import download, upload
from shared.bus.handover import PipeRef
from shared.bus.streams import ByteStream
from shared.contracts import containers as contracts
from shared.contracts.containers import ArchivePath, Export, GetArchive, PathStat, PutArchive
from shared.errors import InvalidArgument

TAR = "application/x-tar"
OCTETS = "application/octet-stream"


def path_of(call: Call) -> str:
    path = call.params.text("path")
    if not path:
        raise InvalidArgument("bad parameter: path cannot be empty", field="path")
    return path


def stat_headers(stat: PathStat) -> dict[str, str]:
    content = {
        "name": stat.name,
        "size": stat.size,
        "mode": stat.mode,
        "mtime": stat.mtime,
        "linkTarget": stat.link_target,
    }
    return {"X-Docker-Container-Path-Stat": base64.b64encode(orjson.dumps(content)).decode()}


async def stat(call: Call) -> Response:
    result = await call.ask(contracts.STAT_PATH, ArchivePath(ref=call.path("ref"), path=path_of(call)))
    return Response(status_code=200, headers=stat_headers(result))


async def get(call: Call) -> Response:
    path = path_of(call)

    async def ask(stream: ByteStream, pipe: PipeRef) -> PathStat:
        request = GetArchive(ref=call.path("ref"), path=path, stream=stream.ref, pipe=pipe)
        return await call.ask(contracts.GET_ARCHIVE, request)

    return await download(call, ask, media_type=TAR, headers=stat_headers)


async def put(call: Call) -> Response:
    path = path_of(call)
    params = call.params

    async def ask(stream: ByteStream, pipe: PipeRef) -> None:
        await call.ask(
            contracts.PUT_ARCHIVE,
            PutArchive(
                ref=call.path("ref"),
                path=path,
                stream=stream.ref,
                pipe=pipe,
                no_overwrite_dir_non_dir=params.flag("noOverwriteDirNonDir"),
                copy_uid_gid=params.flag("copyUIDGID"),
            ),
        )

    await upload(call, ask)
    return empty_response(200)


async def export(call: Call) -> Response:
    async def ask(stream: ByteStream, pipe: PipeRef) -> None:
        await call.ask(contracts.EXPORT, Export(ref=call.path("ref"), stream=stream.ref, pipe=pipe))

    return await download(call, ask, media_type=OCTETS)


ROUTES: Routes = (
    ("HEAD", "/containers/{ref}/archive", stat),
    ("GET", "/containers/{ref}/archive", get),
    ("PUT", "/containers/{ref}/archive", put),
    ("GET", "/containers/{ref}/export", export),
)
