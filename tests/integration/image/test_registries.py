"""Pull and push with Debian's docker-registry and skopeo, and with registries that misbehave."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.image.manifests import OCI_INDEX, digest_of
from services.image.server.serving import listen, serve
from shared.contracts import images as contracts
from shared.contracts.containers import ImageUser
from shared.contracts.images import RegistryAuth
from shared.errors import Conflict, DavitError, InvalidArgument, NotFound, Unauthorized
from shared.streams import offer
from tests.conftest import missing
from tests.integration.image.conftest import Images, rootfs, running
from tests.lab.nats import NatsServer
from tests.lab.registry import BINARY, DockerRegistry, bcrypt, free_port

pytestmark = pytest.mark.root
AUTH = RegistryAuth(username="user", password="secret")


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    return f"sqlite://{tmp_path}/db"


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[DockerRegistry]:
    if BINARY is None:
        missing("docker-registry")
    with DockerRegistry(tmp_path / "registry") as server:
        yield server


def texts(lines: list[dict[str, Any]]) -> list[str]:
    return [line.get("status", "") for line in lines]


async def test_pushed_and_pulled_it_is_the_same(images: Images, registry: DockerRegistry) -> None:
    name = f"{registry.domain}/team/app:1"
    image_id = await images.import_tar(rootfs({"f": b"x" * 100_000}), name, changes=["CMD x"])
    lines = await images.push(name.rpartition(":")[0], tag="1")
    assert texts(lines)[0] == f"The push refers to repository [{registry.domain}/team/app]"
    assert "Pushed" in texts(lines)
    pushed = lines[-1]["aux"]
    assert texts(lines)[-2] == f"1: digest: {pushed['Digest']} size: {pushed['Size']}"
    assert "Layer already exists" in texts(await images.push(name))

    await images.remove(image_id, force=True)
    assert (images.blobs(), images.layers()) == (set(), set())
    told = texts(await images.pull(name))
    assert told[0] == "Pulling from team/app"
    assert told[-2:] == [f"Digest: {pushed['Digest']}", f"Status: Downloaded newer image for {name}"]
    assert [text for text in told if text in ("Pulling fs layer", "Download complete", "Pull complete")] == [
        "Pulling fs layer",
        "Download complete",
        "Pull complete",
    ]
    image = await images.inspect(name)
    assert (image.id, image.repo_digests) == (image_id, [f"{registry.domain}/team/app@{pushed['Digest']}"])
    assert texts(await images.pull(name)) == [
        "Pulling from team/app",
        f"Digest: {pushed['Digest']}",
        f"Status: Image is up to date for {name}",
    ]
    by_digest = f"{registry.domain}/team/app@{pushed['Digest']}"
    await images.pull(by_digest)
    assert (await images.inspect(by_digest)).id == image_id
    assert images.is_clean()


async def test_blobs_are_mounted_across_repositories(images: Images, registry: DockerRegistry) -> None:
    await images.import_tar(rootfs({"f": b"1"}), f"{registry.domain}/first:1")
    await images.push(f"{registry.domain}/first:1")
    await images.tag(f"{registry.domain}/first:1", f"{registry.domain}/second:1")
    assert "Mounted from first" in texts(await images.push(f"{registry.domain}/second:1"))


async def test_all_tags(images: Images, registry: DockerRegistry) -> None:
    for tag in ("1", "2"):
        await images.import_tar(rootfs({"f": tag.encode()}), f"{registry.domain}/app:{tag}")
    await images.push(f"{registry.domain}/app", all_tags=True)
    for tag in ("1", "2"):
        await images.remove(f"{registry.domain}/app:{tag}")
    told = texts(await images.pull(f"{registry.domain}/app", all_tags=True))
    assert [text for text in told if text.startswith(("Pulling from", "Status"))] == [
        "Pulling from app",
        "Pulling from app",
        f"Status: Downloaded newer image for {registry.domain}/app",
    ]
    assert sorted(tag for image in await images.list() for tag in image.repo_tags) == [
        f"{registry.domain}/app:1",
        f"{registry.domain}/app:2",
    ]


async def test_what_is_not_there(images: Images, registry: DockerRegistry) -> None:
    with pytest.raises(DavitError) as failure:
        await images.pull(f"{registry.domain}/nosuch:1")
    assert str(failure.value).startswith(f"manifest for {registry.domain}/nosuch:1 not found: manifest unknown")
    with pytest.raises(DavitError, match="no such host"):
        await images.pull("nosuch.invalid/app:1")
    with pytest.raises(DavitError, match="connect: connection refused"):
        await images.pull(f"127.0.0.1:{free_port()}/app:1")
    with pytest.raises(DavitError, match="An image does not exist locally with the tag: app"):
        await images.push("app:9")
    assert images.is_clean()


async def test_users_and_login(images: Images, tmp_path: Path) -> None:
    if BINARY is None:
        missing("docker-registry")
    with DockerRegistry(tmp_path / "registry", users={"user": "secret"}) as registry:
        name = f"{registry.domain}/app:1"
        await images.import_tar(rootfs({"f": b"1"}), name)
        with pytest.raises(DavitError, match="no basic auth credentials"):
            await images.push(name)
        with pytest.raises(DavitError, match="unauthorized"):
            await images.push(name, auth=RegistryAuth(username="user", password="wrong"))
        await images.push(name, auth=AUTH)
        with pytest.raises(DavitError, match="pull access denied"):
            await images.pull(name)
        await images.pull(name, auth=AUTH)
        login = AUTH.model_copy(update={"server_address": registry.domain})
        answer = await images.bus.request(contracts.LOGIN, contracts.LoginRequest(auth=login))
        assert answer.status == "Login Succeeded"
        bad = login.model_copy(update={"password": "wrong"})
        with pytest.raises(Unauthorized, match="failed"):
            await images.bus.request(contracts.LOGIN, contracts.LoginRequest(auth=bad))
        shown = await images.bus.request(contracts.DISTRIBUTION, contracts.DistributionRequest(ref=name, auth=AUTH))
        assert (shown.platforms[0].os, shown.digest[:7]) == ("linux", "sha256:")


async def test_certificates_and_mirrors_by_hosts_toml(own_nats: NatsServer, tmp_path: Path) -> None:
    if BINARY is None:
        missing("docker-registry")
    with DockerRegistry(tmp_path / "registry", tls=True) as registry:
        certs = tmp_path / "data/certs.d"
        (certs / "registry.example").mkdir(parents=True)
        toml = f'[host."https://{registry.domain}"]\ncapabilities = ["pull", "resolve", "push"]\nca = "ca.pem"\n'
        (certs / "registry.example/hosts.toml").write_text(toml)
        shutil.copy(registry.authority, certs / "registry.example/ca.pem")
        async with running(own_nats, f"sqlite://{tmp_path}/db", tmp_path / "data") as images:
            image_id = await images.import_tar(rootfs({"f": b"1"}), "registry.example/app:1")
            await images.push("registry.example/app:1")
            await images.remove(image_id, force=True)
            await images.pull("registry.example/app:1")
            assert (await images.inspect("registry.example/app:1")).id == image_id
            (certs / "registry.example/ca.pem").unlink()
            (certs / "registry.example/hosts.toml").write_text(toml.replace('ca = "ca.pem"\n', ""))
            with pytest.raises(DavitError, match=r"(?i)certificate"):
                await images.pull("registry.example/app:1")


async def test_skopeo_reads_what_was_pushed_and_the_reverse(
    images: Images, registry: DockerRegistry, tmp_path: Path
) -> None:
    if shutil.which("skopeo") is None:
        missing("skopeo")
    name = f"{registry.domain}/app:1"
    await images.import_tar(rootfs({"f": b"x" * 1000}), name)
    await images.push(name)
    layout = f"oci:{tmp_path}/layout:1"
    await skopeo("copy", "--src-tls-verify=false", f"docker://{name}", layout)
    await skopeo("copy", "--dest-tls-verify=false", layout, f"docker://{registry.domain}/again:1")
    await images.pull(f"{registry.domain}/again:1")
    again, first = await images.inspect(f"{registry.domain}/again:1"), await images.inspect(name)
    assert again.diff_ids == first.diff_ids
    for kind in ("oci-archive", "docker-archive"):
        archive = tmp_path / f"{kind}.tar"
        await skopeo(
            "copy",
            "--src-tls-verify=false",
            f"docker://{registry.domain}/again:1",
            f"{kind}:{archive}:x.example/{kind}:1",
        )
        assert await images.load(archive.read_bytes()) == f"Loaded image: x.example/{kind}:1\n"
        assert (await images.inspect(f"x.example/{kind}:1")).diff_ids == first.diff_ids
    saved = tmp_path / "saved.tar"
    saved.write_bytes(await images.save(name))
    await skopeo("copy", f"docker-archive:{saved}", f"oci:{tmp_path}/from-saved:1")
    await skopeo("copy", f"oci-archive:{saved}", f"oci:{tmp_path}/from-oci:1")


async def skopeo(*arguments: str) -> None:
    process = await asyncio.create_subprocess_exec(
        "skopeo", *arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()


# -- registries that misbehave, in front of a real one ----------------------------------------------------------


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


async def test_a_cut_download_goes_on_where_it_was(images: Images, registry: DockerRegistry) -> None:
    image_id = await prepared(images, registry)
    async with door(registry.domain) as proxy:
        proxy.cut_after, proxy.cuts = 100_000, 2
        lines = await images.pull(f"{proxy.domain}/app:1")
    assert (await images.inspect(image_id)).id == image_id
    ranges = [text for _, path, text in proxy.requests if "/blobs/" in path and text]
    assert ranges == ["bytes=100000-", "bytes=200000-"]
    assert any(text.startswith("Retrying in") for text in texts(lines))


async def test_a_spoiled_layer_is_refused_and_leaves_nothing(images: Images, registry: DockerRegistry) -> None:
    await prepared(images, registry)
    async with door(registry.domain) as proxy:
        proxy.spoil = True
        with pytest.raises(DavitError, match="verification failed"):
            await images.pull(f"{proxy.domain}/app:1")
    assert (await images.list(), images.layers(), images.is_clean()) == ([], set(), True)


async def test_tokens(images: Images, registry: DockerRegistry) -> None:
    image_id = await prepared(images, registry)
    async with door(registry.domain) as proxy:
        proxy.token = "letter-of-passage"
        with pytest.raises(DavitError, match="pull access denied"):
            await images.pull(f"{proxy.domain}/app:1")
        await images.pull(f"{proxy.domain}/app:1", auth=AUTH)
    assert (await images.inspect(image_id)).id == image_id
    assert sum(path == "/token" for _, path, _ in proxy.requests) == 2, "one refused, one kept for all requests"


async def test_a_client_that_goes_away_stops_the_pull(images: Images, registry: DockerRegistry) -> None:
    await prepared(images, registry)
    async with door(registry.domain) as proxy:
        proxy.hold = asyncio.Event()
        stream = await offer(images.bus)
        await images.bus.request(contracts.PULL, contracts.PullImage(stream=stream.ref, ref=f"{proxy.domain}/app:1"))
        await asyncio.wait_for(proxy.held.wait(), 10)
        await stream.cancel("the client went away")
        await stream.aclose()
        async with asyncio.timeout(10):
            while not images.is_clean():  # noqa: ASYNC110  # the disk tells nobody
                await asyncio.sleep(0.02)
        proxy.hold.set()
    assert (await images.list(), images.layers()) == ([], set())


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


async def test_an_index_gives_the_wanted_platform(images: Images, registry: DockerRegistry) -> None:
    name, digest = await multi_platform(images, registry)
    told = texts(await images.pull(name, platform="linux/arm64"))
    assert told[-2] == f"Digest: {digest}"
    assert (await images.inspect(name)).architecture == "arm64"
    await images.pull(name, platform="linux/amd64")
    assert (await images.inspect(name)).architecture == "amd64"
    with pytest.raises(DavitError, match="no matching manifest for linux/s390x in the manifest list entries"):
        await images.pull(name, platform="linux/s390x")


async def both_pulled(images: Images, registry: DockerRegistry) -> tuple[str, str, str]:
    """A name that stands for an image of each of two platforms; their ids."""
    name, _ = await multi_platform(images, registry)
    for platform in ("linux/amd64", "linux/arm64"):
        await images.pull(name, platform=platform)
    amd64, arm64 = [(await images.inspect(name, platform=one)).id for one in ("linux/amd64", "linux/arm64")]
    assert amd64 != arm64
    return name, amd64, arm64


async def test_images_for_several_platforms_lie_side_by_side(images: Images, registry: DockerRegistry) -> None:
    name, amd64, arm64 = await both_pulled(images, registry)
    assert (await images.inspect(name)).id == amd64, "the one that this machine runs is meant"
    as_json = '{"os":"linux","architecture":"arm64","variant":"v8"}'
    assert (await images.inspect(name, platform=as_json)).repo_tags == [name]
    with pytest.raises(NotFound, match="does not match the specified platform: wanted linux/s390x"):
        await images.inspect(name, platform="linux/s390x")
    resolved = await images.bus.request(contracts.RESOLVE, contracts.ImageRef(ref=name, platform="linux/arm64"))
    assert resolved.id == arm64
    [listed] = await images.list(manifests=True, all=True)
    assert (listed.id, listed.repo_tags) == (amd64, [name])
    assert listed.manifests is not None
    assert [(one.platform.architecture, one.platform.variant) for one in listed.manifests] == [
        ("amd64", ""),
        ("arm64", "v8"),
    ]
    assert all(one.available and one.content_bytes > 0 for one in listed.manifests)
    assert (await images.inspect(name, manifests=True)).manifests == listed.manifests
    with pytest.raises(InvalidArgument, match="manifests and platform"):
        await images.inspect(name, manifests=True, platform="linux/amd64")
    await images.tag(name, "copy:1")
    assert (await images.inspect("copy:1", platform="linux/arm64")).id == arm64
    assert not (await images.bus.request(contracts.PRUNE, contracts.PruneImages())).removals
    archive = await images.save(name, platform="linux/arm64")
    for one in (name, "copy:1"):
        await images.remove(one)
    # Not at once: who asked for the image may be making a container from it.
    for _ in range(100):
        if (images.blobs(), images.layers()) == (set(), set()):
            break
        await asyncio.sleep(0.1)
    assert (images.blobs(), images.layers()) == (set(), set())
    await images.load(archive)
    assert (await images.inspect(name)).id == arm64
    pushed = name.replace(":multi", ":one")
    await images.tag(name, pushed)
    await images.push(pushed, platform="linux/arm64")
    with pytest.raises(DavitError, match="does not match the specified platform"):
        await images.push(pushed, platform="linux/amd64")


async def test_a_build_starts_from_the_platform_that_it_wants(images: Images, registry: DockerRegistry) -> None:
    name, amd64, arm64 = await both_pulled(images, registry)
    for platform, parent in (("linux/amd64", amd64), ("linux/arm64", arm64), ("", amd64)):
        await images.build(f"FROM {name}\nENV a=1\n", platform=platform, tags=["built:1"])
        assert (await images.inspect("built:1")).parent == parent


async def test_a_pulled_image_is_a_cache(images: Images, registry: DockerRegistry) -> None:
    name = f"{registry.domain}/team/app:1"
    files = {"f": b"content", "g": b"more"}
    dockerfile = "FROM scratch AS one\nCOPY f /\nFROM scratch\nENV a=1\nCOPY --from=one /f /x\nCOPY g /\nCMD run\n"
    arguments = {"build_args": {"BUILDKIT_INLINE_CACHE": "1"}, "labels": {"l": "1"}}
    await images.build(dockerfile, files, tags=[name], **arguments)
    before = await images.inspect(name)
    await images.push(name)
    await images.remove(name, force=True)
    await images.bus.request(contracts.BUILD_PRUNE, contracts.BuildCachePrune(all=True))
    assert images.layers() == set()
    lines = await images.build(dockerfile, files, cache_from=[name], tags=["again:1"], **arguments)
    told = "".join(line.get("stream", "") for line in lines)
    assert told.count("Using cache") == 5, told  # all but the first stage, whose steps no image has
    assert "not consumed" not in told
    after = await images.inspect("again:1")
    assert (after.id, after.diff_ids) == (before.id, before.diff_ids)
    changed = await images.build(dockerfile, {**files, "g": b"other"}, cache_from=[name], **arguments)
    assert "".join(line.get("stream", "") for line in changed).count("Using cache") >= 3


async def test_one_platform_of_several_is_removed(images: Images, registry: DockerRegistry) -> None:
    name, amd64, arm64 = await both_pulled(images, registry)
    images.users = [ImageUser(image_id=amd64, container_id="c" * 64, running=False)]
    with pytest.raises(Conflict, match="must force"):
        await images.remove(name, platforms=["linux/amd64"])
    with pytest.raises(Conflict, match="must force"):
        await images.remove(name)
    images.users = []
    with pytest.raises(NotFound, match="wanted linux/s390x"):
        await images.remove(name, platforms=["linux/s390x"])
    gone = await images.remove(name, platforms=['{"os":"linux","architecture":"amd64"}'])
    assert gone[0] == f"Deleted: {amd64}"
    assert (await images.inspect(name)).id == arm64, "the name stands for the one that is left"
    assert [image.id for image in await images.list(all=True)] == [arm64]
    gone = await images.remove(name, platforms=["linux/arm64"])
    assert gone[0] == f"Untagged: {name}"
    assert f"Deleted: {arm64}" in gone
    assert (images.blobs(), images.layers()) == (set(), set())
    # By id, the name stays for the other as well.
    name, amd64, arm64 = await both_pulled(images, registry)
    assert (await images.remove(amd64))[0] == f"Deleted: {amd64}"
    assert (await images.inspect(name)).id == arm64


async def test_another_index_takes_the_name_from_all(images: Images, registry: DockerRegistry) -> None:
    name, amd64, arm64 = await both_pulled(images, registry)
    await images.import_tar(rootfs({"f": b"new"}), name)
    with pytest.raises(NotFound):
        await images.inspect(name, platform="linux/arm64")
    digests = {image.id: image.repo_tags for image in await images.list()}
    assert digests[amd64] == []
    assert arm64 not in digests, "its digest stands for both"


async def test_a_single_manifest_is_taken_for_any_platform_with_a_warning(
    images: Images, registry: DockerRegistry
) -> None:
    name = f"{registry.domain}/app:1"
    await images.import_tar(rootfs({"f": b"1"}), name, platform="linux/arm64")
    await images.push(name)
    await images.remove(name)
    told = texts(await images.pull(name, platform="linux/riscv64"))
    assert told[-1] == f"Status: Downloaded newer image for {name}"
    assert f"WARNING: image with reference {name} was found but does not match the specified platform" in "".join(told)
    assert (await images.inspect(name)).architecture == "arm64"


# -- the registry that the service is ---------------------------------------------------------------------------


async def test_the_store_is_a_registry(own_nats: NatsServer, tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    async with (
        running(own_nats, f"sqlite://{tmp_path}/db", tmp_path / "data", registry_listen=address) as images,
        httpx.AsyncClient(base_url=f"http://{address}") as client,
    ):
        assert (await client.get("/v2/")).status_code == 200
        blob = b"0123456789" * 1000
        digest = digest_of(blob)
        # In one request
        answer = await client.post(f"/v2/a/b/blobs/uploads/?digest={digest}", content=blob)
        assert (answer.status_code, answer.headers["location"]) == (201, f"/v2/a/b/blobs/{digest}")
        # In parts
        place = (await client.post("/v2/a/c/blobs/uploads/")).headers["location"]
        answer = await client.patch(place, content=blob[:4000], headers={"Content-Range": "0-3999"})
        assert (answer.status_code, answer.headers["range"]) == (202, "0-3999")
        assert (await client.patch(place, content=b"x", headers={"Content-Range": "9-9"})).status_code == 416
        assert (await client.get(place)).headers["range"] == "0-3999"
        assert (await client.put(f"{place}?digest={digest}", content=blob[4000:])).status_code == 201
        wrong = (await client.post("/v2/a/c/blobs/uploads/")).headers["location"]
        answer = await client.put(f"{wrong}?digest={digest}", content=b"other")
        assert (answer.status_code, answer.json()["errors"][0]["code"]) == (400, "DIGEST_INVALID")
        # Mounted
        assert (await client.post(f"/v2/a/d/blobs/uploads/?mount={digest}&from=a/b")).status_code == 201
        # In pieces
        answer = await client.get(f"/v2/a/d/blobs/{digest}", headers={"Range": "bytes=10-19"})
        assert (answer.status_code, answer.content) == (206, blob[10:20])
        assert (await client.get(f"/v2/a/d/blobs/{digest}", headers={"Range": "bytes=99999-"})).status_code == 416
        assert (await client.head(f"/v2/a/d/blobs/{digest}")).headers["content-length"] == str(len(blob))
        assert (await client.get(f"/v2/a/x/blobs/{digest}")).json()["errors"][0]["code"] == "BLOB_UNKNOWN"
        # Manifests, tags, referrers
        config = {"mediaType": "application/vnd.test", "digest": digest, "size": len(blob)}
        manifest = json.dumps({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": []}).encode()
        kind = {"Content-Type": OCI_MANIFEST}
        for tag in ("1", "2", "3"):
            assert (await client.put(f"/v2/a/b/manifests/{tag}", content=manifest, headers=kind)).status_code == 201
        subject = {"mediaType": OCI_MANIFEST, "digest": digest_of(manifest), "size": len(manifest)}
        note = json.dumps({**json.loads(manifest), "artifactType": "test/note", "subject": subject}).encode()
        answer = await client.put(f"/v2/a/b/manifests/{digest_of(note)}", content=note, headers=kind)
        assert (answer.status_code, answer.headers["oci-subject"]) == (201, digest_of(manifest))
        listed = (await client.get(f"/v2/a/b/referrers/{digest_of(manifest)}?artifactType=test/note")).json()
        assert [item["digest"] for item in listed["manifests"]] == [digest_of(note)]
        first = await client.get("/v2/a/b/tags/list?n=2")
        assert (first.json()["tags"], first.headers["link"]) == (
            ["1", "2"],
            '</v2/a/b/tags/list?last=2&n=2>; rel="next"',
        )
        assert (await client.get("/v2/a/b/tags/list?n=2&last=2")).json()["tags"] == ["3"]
        missing_blob = manifest.replace(digest.encode(), b"sha256:" + b"0" * 64)
        answer = await client.put("/v2/a/b/manifests/4", content=missing_blob, headers=kind)
        assert (answer.status_code, answer.json()["errors"][0]["code"]) == (400, "MANIFEST_BLOB_UNKNOWN")
        assert (await client.delete("/v2/a/b/manifests/3")).status_code == 202
        assert (await client.get("/v2/a/b/manifests/3")).json()["errors"][0]["code"] == "MANIFEST_UNKNOWN"
        assert (await client.delete(f"/v2/a/b/manifests/{digest_of(manifest)}")).status_code == 202
        assert (await client.get("/v2/a/b/tags/list")).json()["tags"] == []
        # The engine's own images
        await images.import_tar(rootfs({"f": b"1"}), "own:1")
        assert (await client.get("/v2/own/tags/list")).json() == {"name": "own", "tags": ["1"]}
        await images.pull(f"{address}/own:1")
        assert (await images.inspect(f"{address}/own:1")).id == (await images.inspect("own:1")).id
        if shutil.which("skopeo"):
            await skopeo("copy", "--src-tls-verify=false", f"docker://{address}/own:1", f"oci:{tmp_path}/layout:1")
            await skopeo("copy", "--dest-tls-verify=false", f"oci:{tmp_path}/layout:1", f"docker://{address}/new:1")


OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


async def test_the_registry_has_users(own_nats: NatsServer, tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    users = tmp_path / "users"
    users.write_text(f"user:{bcrypt('secret')}\n")
    config = {"registry_listen": address, "registry_users": str(users)}
    async with (
        running(own_nats, f"sqlite://{tmp_path}/db", tmp_path / "data", **config),
        httpx.AsyncClient(base_url=f"http://{address}") as client,
    ):
        answer = await client.get("/v2/")
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, 'Basic realm="davit"')
        assert (await client.get("/v2/", auth=("user", "wrong"))).status_code == 401
        assert (await client.get("/v2/", auth=("user", "secret"))).status_code == 200
