"""What the client of registries does when tokens run out, rates are limited, and certificates are asked for."""

from __future__ import annotations

import asyncio
import json
import shutil
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs

import pytest

from services.image.server.serving import listen, serve
from shared.contracts import images as contracts
from shared.contracts.images import RegistryAuth
from shared.errors import DavitError, InvalidArgument, NotFound, Unavailable
from tests.integration.image.conftest import Images, rootfs, running
from tests.integration.image.registries import (  # noqa: F401  # a fixture
    database_url,
    door,
    multi_platform,
    prepared,
    texts,
)
from tests.lab.nats import NatsServer
from tests.lab.registry import DockerRegistry, certificate, free_port

pytestmark = pytest.mark.root


class Scripted:
    """A registry, token server and search that answers what it is told to.

    Attributes:
        answers: By path: status, headers and body, used one after the other; the last one stays.
        asked: Method, path with query, headers and body of each request.
    """

    def __init__(self) -> None:
        self.domain = f"127.0.0.1:{free_port()}"
        self.answers: dict[str, list[tuple[int, dict[str, str], bytes]]] = {}
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []

    def says(self, path: str, status: int, value: Any = None, **headers: str) -> None:
        body = b"" if value is None else value if isinstance(value, bytes) else json.dumps(value).encode()
        named = {name.replace("_", "-"): text for name, text in headers.items()}
        self.answers.setdefault(path, []).append((status, named, body))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        query = scope["query_string"].decode()
        self.asked.append((scope["method"], scope["path"] + (f"?{query}" if query else ""), headers, body))
        known = self.answers.get(scope["path"], [(404, {}, b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"no"}]}')])
        status, extra, data = known.pop(0) if len(known) > 1 else known[0]
        pairs = {"content-length": str(len(data)), "content-type": "application/json", **extra}
        encoded = [(name.encode(), text.encode()) for name, text in pairs.items()]
        await send({"type": "http.response.start", "status": status, "headers": encoded})
        await send({"type": "http.response.body", "body": data if scope["method"] != "HEAD" else b""})


@asynccontextmanager
async def scripted() -> AsyncIterator[Scripted]:
    app = Scripted()
    task = asyncio.create_task(serve(app, listen(app.domain), "", ""))
    try:
        yield app
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def challenge(domain: str) -> str:
    return f'Bearer realm="http://{domain}/token",service="here",scope="repository:app:pull"'


async def test_a_token_that_has_run_out_is_fetched_anew(images: Images, registry: DockerRegistry) -> None:
    image_id = await prepared(images, registry)
    async with door(registry.domain) as proxy:
        proxy.token = "first"
        auth = RegistryAuth(username="user", password="secret")
        passed = proxy._pass

        async def another_token_from_now_on(*arguments: Any) -> None:
            proxy.token = "second"
            await passed(*arguments)

        proxy._pass = another_token_from_now_on  # type: ignore[assignment, method-assign]
        await images.pull(f"{proxy.domain}/app:1", auth=auth)
    assert (await images.inspect(image_id)).id == image_id
    assert sum(path == "/token" for _, path, _ in proxy.requests) == 2


async def test_tokens_are_asked_for_with_the_scope_of_the_work(images: Images) -> None:
    async with scripted() as server:
        server.says("/v2/app/manifests/1", 401, {}, www_authenticate=challenge(server.domain))
        server.says("/token", 403, {"errors": [{"code": "DENIED", "message": "requested access is denied"}]})
        with pytest.raises(DavitError, match="denied"):
            await images.pull(f"{server.domain}/app:1", auth=RegistryAuth(username="me", password="x"))
        method, path, headers, _ = server.asked[-1]
        assert (method, path.partition("?")[0]) == ("GET", "/token")
        asked = parse_qs(path.partition("?")[2])
        assert asked == {"scope": ["repository:app:pull"], "service": ["here"], "account": ["me"]}
        assert headers["authorization"].startswith("Basic ")
        # A push, of an image whose layer may be mounted from a repository that it was pulled from
        await images.import_tar(rootfs({"f": b"1"}), f"{server.domain}/app:1")
        server.asked.clear()
        for path in ("/v2/app/blobs/uploads/", "/v2/app/manifests/1"):
            server.says(path, 401, {}, www_authenticate=challenge(server.domain))
        with pytest.raises(DavitError, match="denied"):
            await images.push(f"{server.domain}/app:1", auth=RegistryAuth(username="me", password="x"))
        scopes = [parse_qs(path.partition("?")[2])["scope"] for _, path, _, _ in server.asked if "/token" in path]
        assert ["repository:app:pull,push"] in scopes


async def test_an_identity_token_is_exchanged(images: Images) -> None:
    async with scripted() as server:
        server.says("/v2/app/manifests/1", 401, {}, www_authenticate=challenge(server.domain))
        server.says(
            "/v2/app/manifests/1", 404, {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}
        )
        server.says("/token", 200, {"access_token": "granted"})
        with pytest.raises(DavitError, match="manifest unknown"):
            await images.pull(f"{server.domain}/app:1", auth=RegistryAuth(identity_token="from-login"))
    assert [method for method, _, _, _ in server.asked] == ["GET", "POST", "GET"]
    form = parse_qs(server.asked[1][3].decode())
    assert form["grant_type"] == ["refresh_token"]
    assert form["refresh_token"] == ["from-login"]
    assert form["scope"] == ["repository:app:pull"]
    assert server.asked[2][2]["authorization"] == "Bearer granted"


async def test_a_limited_rate_is_waited_for_and_said(images: Images, registry: DockerRegistry) -> None:
    await prepared(images, registry)
    async with scripted() as server:
        server.says("/v2/app/manifests/1", 429, {"errors": [{"code": "TOOMANYREQUESTS", "message": "slow down"}]})
        with pytest.raises(DavitError, match=r"toomanyrequests: .*slow down"):
            await images.pull(f"{server.domain}/app:1")
    async with door(registry.domain) as proxy:
        reply, limited = proxy._reply, 0
        pass_on = proxy._pass

        async def limit(scope: Any, send: Any, answer: Any, is_layer: bool) -> None:
            nonlocal limited
            if is_layer and not limited:
                limited += 1
                await reply(send, 429, b"", {"retry-after": "2"})
                return
            await pass_on(scope, send, answer, is_layer)

        proxy._pass = limit  # type: ignore[method-assign]
        started = time.monotonic()
        await images.pull(f"{proxy.domain}/app:1")
        assert limited == 1
        assert time.monotonic() - started >= 2


async def test_mirrors_are_asked_first_and_get_no_passwords(
    own_nats: NatsServer,
    tmp_path: Path,
    registry: DockerRegistry,
) -> None:
    async with scripted() as broken, door(registry.domain) as mirror:
        broken.says("/v2/library/app/manifests/1", 503, {})
        config = {"registry_mirrors": [f"http://{broken.domain}", f"http://{mirror.domain}"]}
        async with running(own_nats, f"sqlite://{tmp_path}/db", tmp_path / "data", **config) as images:
            image_id = await images.import_tar(rootfs({"f": b"mirrored"}), f"{registry.domain}/library/app:1")
            await images.push(f"{registry.domain}/library/app:1")
            await images.remove(image_id, force=True)
            told = texts(await images.pull("app:1", auth=RegistryAuth(username="hub", password="secret")))
            assert told[-1] == "Status: Downloaded newer image for app:1"
            assert (await images.inspect("app:1")).id == image_id
    assert broken.asked, "the first mirror was asked"
    assert not any("authorization" in headers for _, _, headers, _ in broken.asked)


async def test_names_that_do_not_resolve(images: Images) -> None:
    with pytest.raises(DavitError, match=r"lookup nosuch\.invalid: no such host"):
        await images.pull("nosuch.invalid/app:1")
    with pytest.raises(DavitError, match=r"lookup nosuch\.invalid: no such host"):
        await images.bus.request(contracts.DISTRIBUTION, contracts.DistributionRequest(ref="nosuch.invalid/app:1"))


class _Closed(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        data = b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}'
        self.send_response(404)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        return


@contextmanager
def for_known_clients(cert: Path, key: Path) -> Iterator[str]:
    """A registry that talks to those who show this very certificate."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Closed)
    server.daemon_threads = True
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(cert))
    context.load_cert_chain(cert, key)
    context.verify_mode = ssl.CERT_REQUIRED
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # in 1.3 a refusal comes after the handshake, at any time
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_client_certificates(images: Images, tmp_path: Path) -> None:
    cert, key = certificate(tmp_path / "tls")
    with for_known_clients(cert, key) as domain:
        directory = images.data_root / "certs.d" / domain
        directory.mkdir(parents=True)
        shutil.copy(cert, directory / "ca.crt")
        with pytest.raises(DavitError) as refused:
            await images.pull(f"{domain}/app:1")
        assert "manifest unknown" not in str(refused.value)
        shutil.copy(cert, directory / "client.cert")
        with pytest.raises(DavitError, match=r"missing key client\.key for client certificate client\.cert"):
            await images.pull(f"{domain}/app:1")
        shutil.copy(key, directory / "client.key")
        with pytest.raises(DavitError, match="manifest unknown"):
            await images.pull(f"{domain}/app:1")


async def test_search(images: Images) -> None:
    async with scripted() as server:
        found = [
            {"name": "app", "description": "one", "star_count": 7, "is_official": True},
            {"name": "me/app", "description": None, "star_count": 1, "is_automated": True},
        ]
        server.says("/v1/search", 200, {"results": found})

        async def search(**more: Any) -> list[str]:
            request = contracts.SearchRequest(term=f"{server.domain}/app", **more)
            return [hit.name for hit in (await images.bus.request(contracts.SEARCH, request)).hits]

        assert await search(limit=5) == ["app", "me/app"]
        assert server.asked[-1][1] == "/v1/search?q=app&n=5"
        assert await search(filters={"stars": ["3"]}) == ["app"]
        assert await search(filters={"is-official": ["false"]}) == ["me/app"]
        with pytest.raises(InvalidArgument, match="invalid filter 'color'"):
            await search(filters={"color": ["red"]})
        with pytest.raises(InvalidArgument, match=r"limit 101 is outside the range of \[1, 100\]"):
            await search(limit=101)
        server.answers["/v1/search"] = [(500, {}, b"")]
        with pytest.raises(Unavailable, match="Unexpected status code 500"):
            await search()


async def test_distribution_tells_of_indexes_and_single_images(
    images: Images,
    registry: DockerRegistry,
) -> None:
    async def ask(ref: str) -> contracts.Distribution:
        return await images.bus.request(contracts.DISTRIBUTION, contracts.DistributionRequest(ref=ref))

    name, digest = await multi_platform(images, registry)
    index = await ask(name)
    assert (index.digest, index.media_type) == (digest, "application/vnd.oci.image.index.v1+json")
    assert [(one.architecture, one.variant) for one in index.platforms] == [("amd64", ""), ("arm64", "v8")]
    single = await ask(f"{registry.domain}/app:linux-arm64-v8")
    assert [(one.os, one.architecture, one.variant) for one in single.platforms] == [("linux", "arm64", "v8")]
    assert single.size_bytes > 0
    with pytest.raises(NotFound, match="manifest unknown"):
        await ask(f"{registry.domain}/app:none")
