"""A node fetches layers from a registry that breaks connections, lies, and is away."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import os
import tarfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from services.executor.agent.containers.records import NodeRecord, NodeRecords
from services.executor.agent.layers.store import ANSWER_BEFORE_S, NodeLayers
from shared.bus.client import ANY_NODE, Bus
from shared.bus.context import RequestContext, use_context
from shared.contracts.docker import ContainerConfig, HostConfig
from shared.contracts.images import LAYER_SOURCES, LAYERS_REMOVED, LayerChains, LayerSource, LayerSources
from shared.contracts.node import ContainerOrder
from shared.errors import InvalidArgument, NotFound, Unavailable
from shared.layers.store import FETCHED, OWNER
from shared.testing.bus import MemoryHub
from tests.conftest import missing

pytestmark = pytest.mark.root
TOKEN = "let-me-read"


class FakeRegistry:
    """Serves layers, a piece at a time.

    Attributes:
        cut_after: Bytes of an answer after which its connection breaks; None for whole answers.
        held: While set, answers wait.
        asked: The ``Range`` of each request.
    """

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.cut_after: int | None = None
        self.asked: list[str] = []
        self.held = False
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                registry.answer(self)

            def log_message(self, *_: Any) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v2/davit/layers/blobs/"
        Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        self.asked.append(request.headers["Range"])
        blob = self.blobs.get(request.path.rpartition("/")[2])
        if request.headers["Authorization"] != f"Bearer {TOKEN}" or blob is None:
            request.send_error(404 if blob is None else 401)
            return
        start = int(request.headers["Range"].removeprefix("bytes=").rstrip("-"))
        data = blob[start:]
        request.send_response(206)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        while self.held:
            time.sleep(0.01)
        request.wfile.write(data[: self.cut_after])
        request.close_connection = True

    def close(self) -> None:
        self.held = False
        self._server.shutdown()
        self._server.server_close()


class Node:
    """A node's layers, with an image service that knows what `add` was told."""

    def __init__(self, root: Path, registry: FakeRegistry) -> None:
        self.hub = MemoryHub()
        self.registry = registry
        self.known: dict[str, LayerSource] = {}
        self.root = root / "layers"
        self.records = NodeRecords(root, root / "run")
        self.records.load()
        self.tasks: list[asyncio.Task[Any]] = []
        bus: Any = self.hub.connect()
        self.layers = NodeLayers(bus, "here", self.root, self.records, self.spawn, at_once=2)
        self.bus: Bus = bus

    def spawn(self, work: Any, name: str) -> asyncio.Task[Any]:
        self.tasks.append(asyncio.get_running_loop().create_task(work, name=name))
        return self.tasks[-1]

    async def sources(self, request: LayerChains) -> LayerSources:
        layers = [self.known[chain] for chain in request.chains if chain in self.known]
        return LayerSources(layers=layers, url=self.registry.url, token=TOKEN)

    def add(self, text: str, size: int = 200_000) -> str:
        """A layer with a file that says so; its chain id."""
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            for name, data in (("said", text.encode()), ("noise", os.urandom(size))):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        plain = out.getvalue()
        blob = gzip.compress(plain, 1)
        chain, digest = f"sha256:{hashlib.sha256(plain).hexdigest()}", f"sha256:{hashlib.sha256(blob).hexdigest()}"
        self.registry.blobs[digest] = blob
        self.known[chain] = LayerSource(chain_id=chain, diff_id=chain, blob=digest, blob_bytes=len(blob))
        return chain

    def order(self, *chains: str, container_id: str = "c" * 64) -> ContainerOrder:
        config, host = ContainerConfig(), HostConfig()
        return ContainerOrder(
            id=container_id, name="c", generation=1, layers=list(chains), config=config, host_config=host,
            path="x", args=[],
        )  # fmt: skip

    def there(self) -> set[str]:
        return {f"sha256:{name}" for name in os.listdir(self.root)}

    def said(self, chain: str) -> str:
        return (self.root / chain[7:] / "fs/said").read_text()


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  # it is in the file system, not in an event
            await asyncio.sleep(0.01)


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    server = FakeRegistry()
    yield server
    server.close()


@pytest.fixture
async def node(tmp_path: Path, registry: FakeRegistry) -> AsyncIterator[Node]:
    if os.geteuid() != 0:
        missing("root, to unpack layers,")
    one = Node(tmp_path, registry)
    await one.bus.serve(LAYER_SOURCES, one.sources, node=ANY_NODE)
    await one.layers.start()
    yield one
    registry.held = False
    await one.layers.close()
    for task in one.tasks:
        task.cancel()
    await asyncio.gather(*one.tasks, return_exceptions=True)


async def test_layers_come_once_and_are_marked_as_copies(node: Node) -> None:
    chains = [node.add("low"), node.add("high")]
    order = node.order(*chains)
    await asyncio.gather(*(node.layers.ensure(order) for _ in range(5)))
    assert [node.said(chain) for chain in chains] == ["low", "high"]
    assert node.registry.asked == ["bytes=0-"] * 2
    assert node.there() == set(chains)
    assert all((node.root / chain[7:] / FETCHED).exists() for chain in chains)
    await node.layers.ensure(order)
    assert len(node.registry.asked) == 2, "what is here is not asked for"


async def test_a_connection_that_breaks_is_continued(node: Node) -> None:
    chain = node.add("long", 300_000)
    node.registry.cut_after = 100_000
    await node.layers.ensure(node.order(chain))
    assert node.registry.asked == ["bytes=0-", "bytes=100000-", "bytes=200000-", "bytes=300000-"]
    assert node.said(chain) == "long"


async def test_other_content_is_refused_and_leaves_nothing(node: Node) -> None:
    chain = node.add("true")
    source = node.known[chain]
    blob = node.registry.blobs[source.blob]
    node.registry.blobs[source.blob] = blob[:-8] + bytes(8)  # gzip's own checksum
    with pytest.raises(InvalidArgument):
        await node.layers.ensure(node.order(chain))
    other = node.known[node.add("other")]
    node.known[chain] = source.model_copy(update={"blob": other.blob, "blob_bytes": other.blob_bytes})
    with pytest.raises(InvalidArgument, match="unpacks to"):
        await node.layers.ensure(node.order(chain))
    assert node.there() == set()


async def test_what_nobody_has_is_said(node: Node) -> None:
    with pytest.raises(NotFound, match="the image service does not know it"):
        await node.layers.ensure(node.order("sha256:" + "1" * 64))
    chain = node.add("gone")
    node.registry.blobs.clear()
    with pytest.raises(NotFound, match="does not have"):
        await node.layers.ensure(node.order(chain))
    assert node.there() == set()


async def test_whoever_cannot_wait_is_told_and_the_fetch_goes_on(node: Node) -> None:
    chain = node.add("slow")
    node.registry.held = True
    soon = RequestContext().with_deadline(time.time() + ANSWER_BEFORE_S + 0.3)
    with use_context(soon), pytest.raises(Unavailable, match=r"0 of \d+ bytes have arrived") as caught:
        await node.layers.ensure(node.order(chain))
    assert caught.value.detail["pending"] is True
    node.registry.held = False
    await node.layers.ensure(node.order(chain))
    assert node.registry.asked == ["bytes=0-"]


async def test_copies_go_when_the_image_service_forgets_them(node: Node) -> None:
    kept, used, gone = node.add("kept"), node.add("used"), node.add("gone")
    await node.layers.ensure(node.order(kept, used, gone))
    node.records.save(NodeRecord(order=node.order(used)))
    del node.known[used], node.known[gone]
    await node.bus.publish(LAYERS_REMOVED, b"{}")
    await eventually(lambda: gone not in node.there())
    assert node.there() == {kept, used}
    node.records.forget("c" * 64)
    await node.layers.collect()
    assert node.there() == {kept}


async def test_the_image_services_own_disk_is_left_alone(node: Node) -> None:
    chain = node.add("own")
    await node.layers.ensure(node.order(chain))
    (node.root / OWNER).touch()
    node.known.clear()
    await node.layers.collect()
    assert chain in node.there()
    assert node.layers.shared


async def test_a_power_cut_costs_a_copy_that_was_not_on_the_disk(node: Node, tmp_path: Path) -> None:
    sound, doubtful = node.add("sound"), node.add("doubtful")
    await node.layers.ensure(node.order(sound, doubtful))
    await eventually(lambda: not any((node.root / chain[7:] / "unsynced").exists() for chain in (sound, doubtful)))
    (node.root / doubtful[7:] / "unsynced").write_text("another boot")
    again = Node(tmp_path, node.registry)
    await again.layers.start()
    again.tasks[0].cancel()
    assert node.there() == {sound}
