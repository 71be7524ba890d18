"""Registries for tests: Debian's, one that misbehaves in front of it, and what is put into them."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.image.catalog.manifests import OCI_INDEX, digest_of
from services.image.server.serving import listen, serve
from shared.contracts.images import RegistryAuth
from tests.integration.image.conftest import Images, rootfs
from tests.lab.registry import DockerRegistry, free_port

AUTH = RegistryAuth(username="user", password="secret")


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    return f"sqlite://{tmp_path}/db"


def texts(lines: list[dict[str, Any]]) -> list[str]:
    return [line.get("status", "") for line in lines]


async def skopeo(*arguments: str) -> None:
    process = await asyncio.create_subprocess_exec(
        "skopeo", *arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()


class Door:
    """A proxy that fails as it is told to.

    Attributes:
        cut_after: Bytes of a layer after which the connection is cut; 0 for never.
        cuts: How many times.
        spoil: Change a byte of every blob.
        token: When set, bearer tokens are needed, and given to the user of `AUTH`.
        hold: Blobs stop half way until it is set.
    """

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self.domain = f"127.0.0.1:{free_port()}"
        self.cut_after = self.cuts = self.refusals = 0
        self.spoil = False
        self.token = ""
        self.hold: asyncio.Event | None = None
        self.requests: list[tuple[str, str, str]] = []
        self.held = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        path = scope["path"]
        self.requests.append((scope["method"], path, headers.get("range", "")))
        if path == "/token":
            ok = headers.get("authorization", "").startswith("Basic ")
            await self._reply(send, 200 if ok else 401, json.dumps({"token": self.token}).encode() if ok else b"{}")
            return
        if self.token and headers.get("authorization") != f"Bearer {self.token}":
            challenge = f'Bearer realm="http://{self.domain}/token",service="test",scope="repository:app:pull"'
            await self._reply(send, 401, b'{"errors":[{"code":"UNAUTHORIZED"}]}', {"www-authenticate": challenge})
            return
        if self.refusals:
            self.refusals -= 1
            await self._reply(send, 503, b"")
            return
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        forwarded = {k: v for k, v in headers.items() if k not in ("host", "content-length", "authorization")}
        async with httpx.AsyncClient() as client:
            query = scope["query_string"].decode()
            url = f"http://{self._upstream}{path}" + (f"?{query}" if query else "")
            answer = await client.request(scope["method"], url, headers=forwarded, content=body)
        await self._pass(scope, send, answer, "/blobs/sha256" in path and len(answer.content) > 10_000)

    async def _pass(self, scope: Any, send: Any, answer: httpx.Response, is_layer: bool) -> None:
        names = ("content-type", "docker-content-digest", "content-length", "content-range", "location")
        headers = {
            name: answer.headers[name].replace(self._upstream, self.domain) for name in names if name in answer.headers
        }
        content = answer.content
        if is_layer and self.spoil:
            content = content[:5000] + bytes([content[5000] ^ 1]) + content[5001:]
        await send(
            {
                "type": "http.response.start",
                "status": answer.status_code,
                "headers": [(k.encode(), v.encode()) for k, v in headers.items()],
            }
        )
        if is_layer and self.hold is not None:
            await send({"type": "http.response.body", "body": content[:5000], "more_body": True})
            self.held.set()
            await self.hold.wait()
            content = content[5000:]
        if is_layer and self.cuts:
            self.cuts -= 1
            await send({"type": "http.response.body", "body": content[: self.cut_after], "more_body": True})
            raise ConnectionError("cut")
        await send({"type": "http.response.body", "body": content if scope["method"] != "HEAD" else b""})

    async def _reply(self, send: Any, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        pairs = [(k.encode(), v.encode()) for k, v in {"content-length": str(len(body)), **(headers or {})}.items()]
        await send({"type": "http.response.start", "status": status, "headers": pairs})
        await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def door(upstream: str) -> AsyncIterator[Door]:
    app = Door(upstream)
    task = asyncio.create_task(serve(app, listen(app.domain), "", ""))
    try:
        yield app
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def prepared(images: Images, registry: DockerRegistry) -> str:
    """An image of some size in the registry, and not here any more; its id."""
    image_id = await images.import_tar(rootfs({"f": os.urandom(300_000)}), f"{registry.domain}/app:1")
    await images.push(f"{registry.domain}/app:1")
    await images.remove(image_id, force=True)
    return image_id


async def multi_platform(images: Images, registry: DockerRegistry, name: str = "app:multi") -> tuple[str, str]:
    """An index in the registry with an image for amd64 and one for arm64; its name and digest."""
    manifests: list[dict[str, Any]] = []
    repository, _, tag = name.partition(":")
    async with httpx.AsyncClient(base_url=f"http://{registry.domain}") as client:
        for platform in ("linux/amd64", "linux/arm64/v8"):
            single = f"{registry.domain}/{repository}:{platform.replace('/', '-')}"
            await images.import_tar(rootfs({"f": (platform + name).encode()}), single, platform=platform)
            pushed = (await images.push(single))[-1]["aux"]
            parts = (platform + "/").split("/")
            manifests.append(
                {
                    "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
                    "digest": pushed["Digest"],
                    "size": pushed["Size"],
                    "platform": {"os": parts[0], "architecture": parts[1], "variant": parts[2]},
                }
            )
            await images.remove(single)
        index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests}).encode()
        path = f"/v2/{repository}/manifests/{tag}"
        answer = await client.put(path, content=index, headers={"Content-Type": OCI_INDEX})
        assert answer.status_code == 201
    return f"{registry.domain}/{name}", digest_of(index)


async def both_pulled(images: Images, registry: DockerRegistry) -> tuple[str, str, str]:
    """A name that stands for an image of each of two platforms; their ids."""
    name, _ = await multi_platform(images, registry)
    for platform in ("linux/amd64", "linux/arm64"):
        await images.pull(name, platform=platform)
    amd64, arm64 = [(await images.inspect(name, platform=one)).id for one in ("linux/amd64", "linux/arm64")]
    assert amd64 != arm64
    return name, amd64, arm64
