"""An image store and an executor in memory and plain directories, for the builder's tests."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import shutil
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from services.image.build.context.tree import MemoryTree
from services.image.build.ports import BuiltImage, FinishedImage, NewImage, Output, PastStep, Progress, RunOrder
from services.image.build.steps.layer import LayerPlan, LayerTarget, WrittenLayer
from services.image.build.steps.upper import write_upper
from shared.contracts.docker import ContainerConfig
from shared.contracts.images import RegistryAuth
from shared.docker.platforms import Platform
from shared.errors import InvalidArgument, NotFound


class FileTarget:
    """A `LayerTarget` that keeps the tar in a file, and the files in a directory if there is one."""

    def __init__(self, path: Path, files: Path | None = None) -> None:
        self.path = path
        self.files = files
        path.write_bytes(b"")

    def write(self, data: bytes, /) -> None:
        with self.path.open("ab") as out:
            out.write(data)

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)


class FakeImages:
    """Passes for an `ImageStore`; layers are unpacked below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.images: dict[str, BuiltImage] = {}
        self.names: dict[str, str] = {}
        self.cache: dict[tuple[str, str], str] = {}
        self.stored: list[NewImage] = []
        self.pulled: list[str] = []
        self.announced: list[str] = []
        self.targets: list[FileTarget] = []
        self._numbers = itertools.count()
        self.visible: set[str] = set()
        self.remote: dict[str, BuiltImage] = {}

    def base(self, name: str, files: Mapping[str, bytes | object] | None = None, **config: Any) -> BuiltImage:
        layer = self.root / f"base-{len(self.images)}"
        layer.mkdir(parents=True)
        for path, content in (files or {}).items():
            target = layer / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                target.write_bytes(content)
            elif isinstance(content, str):
                target.symlink_to(content)
            else:
                target.mkdir(exist_ok=True)
        digest = hashlib.sha256(name.encode()).hexdigest()
        image = BuiltImage(
            f"sha256:{digest}",
            ContainerConfig(**config),
            (layer,),
            (f"sha256:{digest}",),
            (PastStep("import"),),
        )
        self.images[image.id] = image
        self.names[name] = image.id
        return image

    async def get(self, name: str, *, platform: str = "") -> BuiltImage:
        found = self.images.get(self.names.get(name, name))
        if found is None:
            raise NotFound(f"No such image: {name}")
        return found

    async def pull(
        self, name: str, *, platform: str, auths: Mapping[str, RegistryAuth], progress: Progress
    ) -> BuiltImage:
        self.pulled.append(name)
        if name not in self.remote:
            raise NotFound(f"pull access denied for {name}")
        await progress({"status": f"Pulling from {name}"})
        return self.remote[name]

    def begin_layer(self) -> FileTarget:
        self.root.mkdir(exist_ok=True)
        target = FileTarget(self.root / f"tar-{next(self._numbers)}")  # from several threads: stages go side by side
        self.targets.append(target)
        return target

    async def add(self, image: NewImage) -> BuiltImage:
        await asyncio.sleep(0)
        number = len(self.stored)
        parent = image.parent
        layers, diff_ids = parent.layers, parent.diff_ids
        if image.layer is not None:
            directory = self.root / f"layer-{number}"
            directory.mkdir(parents=True)
            assert isinstance(image.layer.target, FileTarget)
            with tarfile.open(image.layer.target.path) as tar:
                tar.extractall(directory, filter="fully_trusted")
            layers, diff_ids = (*layers, directory), (*diff_ids, image.layer.diff_id)
        elif image.known_layer:
            owner = next(item for item in self.images.values() if image.known_layer in item.diff_ids)
            place = owner.layers[owner.diff_ids.index(image.known_layer)]
            layers, diff_ids = (*layers, place), (*diff_ids, image.known_layer)
        built = BuiltImage(
            "sha256:" + hashlib.sha256(f"{number}{image.created_by}".encode()).hexdigest(),
            image.config.model_copy(deep=True),
            layers,
            diff_ids,
            (*parent.history, PastStep(image.created_by, layers == parent.layers)),
            author=image.author,
        )
        self.stored.append(image)
        self.images[built.id] = built
        self.cache[parent.id, image.cache_key] = built.id
        return built

    async def cached(self, parent_id: str, cache_key: str) -> str | None:
        return self.cache.get((parent_id, cache_key))

    async def finish(
        self, image: BuiltImage, encode: Callable[[Mapping[str, Any]], bytes], annotations: Mapping[str, str]
    ) -> FinishedImage:
        data = encode({"config": {}, "history": []})
        made = replace(image, id="sha256:" + hashlib.sha256(data + image.id.encode()).hexdigest())
        self.images[made.id] = made
        return FinishedImage(made.id, b"", made)

    async def tag_index(self, index_digest: str, images: Mapping[Platform, str], name: str) -> None:
        self.names[name] = next(iter(images.values()))

    async def announce(self, image_id: str, names: Sequence[str]) -> None:
        assert not image_id or image_id in self.visible
        self.announced.append(image_id)
        for name in names:
            await self.tag(image_id, name)

    async def tag(self, image_id: str, name: str) -> None:
        assert image_id in self.visible
        self.names[name] = image_id

    async def flush(self) -> None:
        self.visible = set(self.images)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[FakeImages]:
        try:
            yield self
        finally:
            await self.flush()

    def familiar_name(self, name: str) -> str:
        if name != name.lower():
            raise InvalidArgument("invalid reference format: repository name must be lowercase")
        return name if ":" in name else f"{name}:latest"


@dataclass
class FakeContainer:
    order: RunOrder
    upper: Path
    state: str = "created"


Script = Callable[[RunOrder, Path, Output], Awaitable[int]]


@dataclass
class FakeExecutor:
    """Passes for an `Executor`; `script` stands for the command: writes to an upper directory, tells an exit code."""

    root: Path
    script: Script | None = None
    containers: dict[str, FakeContainer] = field(default_factory=dict)
    orders: list[RunOrder] = field(default_factory=list)

    async def create(self, order: RunOrder) -> str:
        container_id = hashlib.sha256(str(len(self.orders)).encode()).hexdigest()
        upper = self.root / f"upper-{len(self.orders)}"
        upper.mkdir(parents=True)
        self.orders.append(order)
        self.containers[container_id] = FakeContainer(order, upper)
        return container_id

    async def run(self, container_id: str, output: Output) -> int:
        container = self.containers[container_id]
        container.state = "running"
        code = await self.script(container.order, container.upper, output) if self.script else 0
        container.state = "exited"
        return code

    async def changes(
        self, container_id: str, target: LayerTarget, *, omit: frozenset[str], take: bool
    ) -> WrittenLayer | None:
        return write_upper(self.containers[container_id].upper, target, omit=omit, take=take)

    async def remove(self, container_id: str) -> None:
        container = self.containers.pop(container_id, None)
        if container is not None:
            shutil.rmtree(container.upper, ignore_errors=True)


def words_of(order: RunOrder) -> list[str]:
    return [*(order.config.entrypoint or []), *(order.config.cmd or [])]


def files_of(image: BuiltImage) -> dict[str, bytes]:
    """All regular files of an image, layers applied by name (no whiteouts)."""
    found: dict[str, bytes] = {}
    for layer in image.layers:
        for parent, _, names in os.walk(layer):
            for name in names:
                path = Path(parent, name)
                if path.is_file() and not path.is_symlink():
                    found[str(path.relative_to(layer))] = path.read_bytes()
    return found


def empty_plan() -> LayerPlan:
    return LayerPlan(MemoryTree({}))
