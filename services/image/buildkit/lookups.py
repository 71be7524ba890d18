"""What clients ask about images and results: configurations, files, directories.

Source: moby/buildkit, frontend/gateway/gateway.go and cache/util/fsutil.go.
"""

from __future__ import annotations

import asyncio
import fnmatch
import posixpath
import stat

from services.image.build.context.tree import Entry, resolve
from services.image.build.ports import BuiltImage
from services.image.buildkit.kitchen import Kitchen
from services.image.buildkit.targets import Place, credentials_of
from services.image.buildkit.wire import fsutil_pb2, gateway_pb2, ops_pb2
from shared.docker.references import parse
from shared.errors import InvalidArgument, NotFound

IMAGE = "docker-image://"
_GO_MODES = {
    "dir": 1 << 31,
    "symlink": 1 << 27,
    "block": 1 << 26,
    "char": (1 << 26) | (1 << 21),
    "fifo": 1 << 25,
    "file": 0,
}
_SPECIAL = ((stat.S_ISUID, 1 << 23), (stat.S_ISGID, 1 << 22), (stat.S_ISVTX, 1 << 20))


class Lookups:
    """One build's."""

    def __init__(self, place: Place, kitchen: Kitchen) -> None:
        self._place = place
        self._kitchen = kitchen

    async def _image(self, name: str, platform: ops_pb2.Platform, mode: str) -> BuiltImage:
        wanted = "/".join(part for part in (platform.OS, platform.Architecture, platform.Variant) if part)
        images = self._place.images
        if mode != "pull":
            try:
                return await images.get(name, platform=wanted)
            except NotFound:
                pass
        auths = await credentials_of(self._place.session)(name)
        return await images.pull(name, platform=wanted, auths=auths, progress=_unheard)

    async def image_config(
        self, request: gateway_pb2.ResolveImageConfigRequest
    ) -> gateway_pb2.ResolveImageConfigResponse:
        """An image's configuration, as its blob has it."""
        image = await self._image(request.Ref, request.Platform, request.ResolveMode)
        config = await self._kitchen.images.config_of(image.id)
        ref = str(parse(request.Ref).with_default_tag())
        return gateway_pb2.ResolveImageConfigResponse(Digest=image.id, Config=config, Ref=ref)

    async def source(self, request: gateway_pb2.ResolveSourceMetaRequest) -> gateway_pb2.ResolveSourceMetaResponse:
        identifier = request.Source.identifier
        if not identifier.startswith(IMAGE):
            return gateway_pb2.ResolveSourceMetaResponse(Source=request.Source)
        image = await self._image(identifier.removeprefix(IMAGE), request.Platform, request.ResolveMode)
        config = await self._kitchen.images.config_of(image.id)
        answer = gateway_pb2.ResolveSourceImageResponse(Digest=image.id, Config=config)
        return gateway_pb2.ResolveSourceMetaResponse(Source=request.Source, Image=answer)

    # -- files of results -----------------------------------------------------------------------------------------

    async def _found(self, ref: str, path: str) -> tuple[object, str, Entry]:
        image = await self._kitchen.results.get(ref).image()
        tree = self._kitchen.tree_of(image)
        real, entry = await asyncio.to_thread(resolve, tree, path)
        if entry is None:
            raise NotFound(f"open {path}: no such file or directory", field="Path")
        return tree, real, entry

    async def read_file(self, request: gateway_pb2.ReadFileRequest) -> gateway_pb2.ReadFileResponse:
        tree, path, entry = await self._found(request.Ref, request.FilePath)
        if entry.kind != "file":
            raise InvalidArgument(f"{request.FilePath} is no regular file", field="FilePath")

        def read() -> bytes:
            content = tree.open(path)  # type: ignore[attr-defined]
            try:
                data: bytes = content.read()
            finally:
                content.close()
            if not request.HasField("Range"):
                return data
            end = request.Range.Offset + request.Range.Length if request.Range.Length else len(data)
            return data[request.Range.Offset : end]

        return gateway_pb2.ReadFileResponse(Data=await asyncio.to_thread(read))

    async def read_directory(self, request: gateway_pb2.ReadDirRequest) -> gateway_pb2.ReadDirResponse:
        tree, path, entry = await self._found(request.Ref, request.DirPath)
        if entry.kind != "dir":
            raise InvalidArgument(f"{request.DirPath} is no directory", field="DirPath")

        def read() -> list[fsutil_pb2.Stat]:
            found = []
            for name in tree.names(path):  # type: ignore[attr-defined]
                if request.IncludePattern and not fnmatch.fnmatchcase(name, request.IncludePattern):
                    continue
                child = tree.lookup(posixpath.join(path, name))  # type: ignore[attr-defined]
                if child is not None:
                    found.append(stat_of(name, child))
            return found

        return gateway_pb2.ReadDirResponse(entries=await asyncio.to_thread(read))

    async def stat(self, request: gateway_pb2.StatFileRequest) -> gateway_pb2.StatFileResponse:
        _, path, entry = await self._found(request.Ref, request.Path)
        return gateway_pb2.StatFileResponse(stat=stat_of(posixpath.basename(path), entry))


async def _unheard(_: object) -> None:
    return


def stat_of(path: str, entry: Entry) -> fsutil_pb2.Stat:
    """A file as the protocol has it."""
    mode = (entry.mode & 0o777) | _GO_MODES[entry.kind]
    for bit, go_bit in _SPECIAL:
        mode |= go_bit if entry.mode & bit else 0
    return fsutil_pb2.Stat(
        path=path,
        mode=mode,
        uid=entry.uid,
        gid=entry.gid,
        size=entry.size,
        modTime=entry.mtime_ns,
        linkname=entry.link,
        devmajor=entry.device[0],
        devminor=entry.device[1],
        xattrs=entry.xattrs,
    )
