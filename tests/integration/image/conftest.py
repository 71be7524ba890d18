"""The image service in this process, on a real bus and a real database, and a client for it."""

from __future__ import annotations

import io
import logging
import os
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from services.image import bootstrap
from shared import logs
from shared.bus.client import Bus
from shared.bus.streams import ByteStream, offer
from shared.clock import SystemClock
from shared.config import EngineConfig
from shared.contracts import images as contracts
from shared.contracts.containers import USING_IMAGE, ImageUser, ImageUsers, UsingImage
from shared.errors import DavitError
from shared.layers.store import OWNER
from shared.service import ServiceContext
from shared.state.database import Database
from shared.state.migrate import default_history
from tests.conftest import missing
from tests.lab.nats import NatsServer
from tests.lab.registry import BINARY, DockerRegistry

Lines = list[dict[str, Any]]


def rootfs(files: dict[str, bytes]) -> bytes:
    """A tar of files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


class Images:
    """A client of the image service.

    Attributes:
        users: What control says: which containers use which images.
        later_users: What it says from the next question on.
    """

    def __init__(self, bus: Bus, database: Database, data_root: Path) -> None:
        self.bus = bus
        self.database = database
        self.data_root = data_root
        self.users: list[ImageUser] = []
        self.later_users: list[ImageUser] = []

    async def using(self, request: UsingImage) -> ImageUsers:
        users, self.users = self.users, self.later_users or self.users
        return ImageUsers(users=users)

    async def import_tar(self, data: bytes, name: str = "", **fields: Any) -> str:
        async def ask(stream: ByteStream) -> None:
            request = contracts.ImportImage(stream=stream.ref, repo=name, **fields)
            await self.bus.request(contracts.IMPORT, request)

        return str((await self.exchange(ask, data))[-1]["status"])

    async def load(self, data: bytes, *, platforms: Sequence[str] = ()) -> str:
        async def ask(stream: ByteStream) -> None:
            await self.bus.request(
                contracts.LOAD, contracts.LoadImages(stream=stream.ref, quiet=True, platforms=list(platforms))
            )

        return "".join(line["stream"] for line in await self.exchange(ask, data))

    async def save(self, *names: str, platforms: Sequence[str] = ()) -> bytes:
        async with await offer(self.bus) as stream:
            request = contracts.SaveImages(
                stream=stream.ref,
                names=list(names),
                platforms=list(platforms),
            )
            await self.bus.request(contracts.SAVE, request)
            return b"".join([chunk async for chunk in stream])

    async def build(self, dockerfile: str, files: dict[str, bytes] | None = None, /, **fields: Any) -> Lines:
        async def ask(stream: ByteStream) -> None:
            await self.bus.request(contracts.BUILD, contracts.BuildImage(stream=stream.ref, **fields))

        context = b"" if fields.get("remote") else rootfs({"Dockerfile": dockerfile.encode(), **(files or {})})
        return await self.exchange(ask, context)

    async def pull(self, ref: str, **fields: Any) -> Lines:
        async def ask(stream: ByteStream) -> None:
            await self.bus.request(contracts.PULL, contracts.PullImage(stream=stream.ref, ref=ref, **fields))

        return await self.exchange(ask, b"")

    async def push(self, ref: str, **fields: Any) -> Lines:
        async def ask(stream: ByteStream) -> None:
            await self.bus.request(contracts.PUSH, contracts.PushImage(stream=stream.ref, ref=ref, **fields))

        return await self.exchange(ask, b"")

    async def exchange(self, ask: Callable[[ByteStream], Awaitable[None]], data: bytes) -> Lines:
        """Send bytes on a stream and collect the lines that come back; errors come out as exceptions."""
        async with await offer(self.bus) as stream:
            await ask(stream)
            try:
                if data:
                    await stream.write(data)
                await stream.close_write()
            except DavitError:
                pass  # it has stopped reading; why is read below
            text = b"".join([chunk async for chunk in stream])
        lines = [orjson.loads(line) for line in text.splitlines() if line]
        for line in lines:
            if "errorDetail" in line:
                raise DavitError(line["error"])
        return lines

    async def list(self, **fields: Any) -> Sequence[contracts.Image]:
        return (await self.bus.request(contracts.LIST, contracts.ListImages(**fields))).images

    async def inspect(self, ref: str, **fields: Any) -> contracts.Image:
        return await self.bus.request(contracts.INSPECT, contracts.InspectImage(ref=ref, **fields))

    async def tag(self, ref: str, target: str) -> None:
        repo, _, tag = target.rpartition(":")
        await self.bus.request(contracts.TAG, contracts.TagImage(ref=ref, repo=repo, tag=tag))

    async def remove(self, ref: str, **fields: Any) -> Sequence[str]:
        """Lines as the CLI prints them."""
        answer = await self.bus.request(contracts.REMOVE, contracts.RemoveImage(ref=ref, **fields))
        return [
            f"Untagged: {item.untagged}" if item.untagged else f"Deleted: {item.deleted}" for item in answer.removals
        ]

    def blobs(self) -> set[str]:
        return set(os.listdir(self.data_root / "images/blobs/sha256"))

    def layers(self) -> set[str]:
        return set(os.listdir(self.data_root / "layers")) - {OWNER}

    def files(self, chain_id: str) -> Path:
        return self.data_root / "layers" / chain_id.removeprefix("sha256:") / "fs"

    def is_clean(self) -> bool:
        """Whether nothing unfinished lies around."""
        ingest = os.listdir(self.data_root / "images/ingest")
        return not ingest and not any(name.startswith(".") for name in self.layers())


@asynccontextmanager
async def running(nats: NatsServer, database_url: str, data_root: Path, **config: Any) -> AsyncIterator[Images]:
    """The service and a client, until the end of the block."""
    bus = await Bus.connect(nats.url, name="image-test")
    database = await Database.open(database_url, service="image", migrations=default_history("image"))
    settings = EngineConfig.checked(
        {"data-root": data_root, **{key.replace("_", "-"): value for key, value in config.items()}}
    )
    log = logs.StructuredLogger(logging.getLogger("davit.image"))
    context = ServiceContext("image", settings, bus, database, "node", SystemClock(), log)
    client = Images(bus, database, data_root)
    await bus.serve(USING_IMAGE, client.using)
    try:
        await bootstrap.start(context)
        yield client
    finally:
        for close in reversed(context._closers):
            await close()
        for task in list(context._tasks):
            task.cancel()
        await bus.close()
        await database.close()


@pytest.fixture
async def images(own_nats: NatsServer, database_url: str, tmp_path: Path) -> AsyncIterator[Images]:
    if os.geteuid() != 0:
        missing("root, to unpack layers,")
    async with running(own_nats, database_url, tmp_path / "data") as client:
        yield client


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[DockerRegistry]:
    if BINARY is None:
        missing("docker-registry")
    with DockerRegistry(tmp_path / "registry") as server:
        yield server
