"""Pull and push with Debian's docker-registry and skopeo, and with registries that misbehave."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import httpx
import pytest

from services.image.catalog.manifests import DOCKER_MANIFEST
from shared.bus.streams import offer
from shared.contracts import images as contracts
from shared.contracts.images import RegistryAuth
from shared.errors import DavitError, Unauthorized
from tests.conftest import missing
from tests.integration.image.conftest import Images, rootfs, running
from tests.integration.image.registries import (  # noqa: F401  # a fixture
    AUTH,
    database_url,
    door,
    prepared,
    skopeo,
    texts,
)
from tests.lab.nats import NatsServer
from tests.lab.registry import BINARY, DockerRegistry, free_port

pytestmark = pytest.mark.root


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


async def test_a_cut_download_goes_on_where_it_was(images: Images, registry: DockerRegistry) -> None:
    image_id = await prepared(images, registry)
    async with door(registry.domain) as proxy:
        proxy.cut_after, proxy.cuts = 100_000, 2
        lines = await images.pull(f"{proxy.domain}/app:1")
    assert (await images.inspect(image_id)).id == image_id
    ranges = [text for _, path, text in proxy.requests if "/blobs/" in path and text]
    assert ranges == ["bytes=100000-", "bytes=200000-"]
    assert any(text.startswith("Retrying in") for text in texts(lines))


async def test_what_a_killed_pull_left_is_continued(images: Images, registry: DockerRegistry) -> None:
    image_id = await prepared(images, registry)
    async with httpx.AsyncClient(base_url=f"http://{registry.domain}") as client:
        manifest = (await client.get("/v2/app/manifests/1", headers={"Accept": DOCKER_MANIFEST})).json()
        [layer] = [item["digest"] for item in manifest["layers"]]
        blob = (await client.get(f"/v2/app/blobs/{layer}")).content
    part = images.data_root / "images/ingest" / f"{layer[7:]}.part"
    part.write_bytes(blob[:100_000])  # as it lies there after kill -9
    async with door(registry.domain) as proxy:
        await images.pull(f"{proxy.domain}/app:1")
        ranges = [wanted for _, path, wanted in proxy.requests if path.endswith(layer)]
    assert ranges == ["bytes=100000-"]
    assert not part.exists()
    assert (await images.inspect(f"{proxy.domain}/app:1")).id == image_id


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
    # The first stage is known here, but not to the named image, which alone decides.
    assert "".join(line.get("stream", "") for line in changed).count("Using cache") == 2
