"""Images for several platforms under one name."""

from __future__ import annotations

import asyncio
import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.image.catalog.manifests import OCI_INDEX, digest_of
from shared.contracts import images as contracts
from shared.contracts.containers import ImageUser
from shared.errors import Conflict, DavitError, InvalidArgument, NotFound
from tests.conftest import missing
from tests.integration.image.conftest import Images, rootfs
from tests.integration.image.registries import (  # noqa: F401  # a fixture
    both_pulled,
    database_url,
    multi_platform,
    skopeo,
    texts,
)
from tests.lab.registry import DockerRegistry

pytestmark = pytest.mark.root


async def test_an_index_gives_the_wanted_platform(images: Images, registry: DockerRegistry) -> None:
    name, digest = await multi_platform(images, registry)
    told = texts(await images.pull(name, platform="linux/arm64"))
    assert told[-2] == f"Digest: {digest}"
    assert (await images.inspect(name)).architecture == "arm64"
    await images.pull(name, platform="linux/amd64")
    assert (await images.inspect(name)).architecture == "amd64"
    with pytest.raises(DavitError, match="no matching manifest for linux/s390x in the manifest list entries"):
        await images.pull(name, platform="linux/s390x")


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
    archive = await images.save(name, platforms=["linux/arm64"])
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


def documents(archive: bytes) -> dict[str, Any]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {name: json.load(tar.extractfile(name)) for name in ("index.json", "manifest.json")}  # type: ignore[arg-type]


async def test_all_platforms_are_saved_and_loaded_together(images: Images, registry: DockerRegistry) -> None:
    name, amd64, arm64 = await both_pulled(images, registry)
    archive = await images.save(name)
    assert await images.save(name, platforms=["linux/arm64", "linux/amd64"]) == archive
    found = documents(archive)
    [entry] = found["index.json"]["manifests"]
    assert (entry["mediaType"], entry["annotations"]["io.containerd.image.name"]) == (OCI_INDEX, name)
    [known] = found["manifest.json"]
    assert (known["Config"], known["RepoTags"]) == (f"blobs/sha256/{amd64[7:]}", [name]), "what older engines load"
    assert (await images.save(arm64)).count(arm64[7:].encode()) > 0
    with pytest.raises(NotFound, match="wanted linux/s390x"):
        await images.save(name, platforms=["linux/amd64", "linux/s390x"])
    await images.remove(name)
    await images.import_tar(rootfs({"f": b"other"}), name)
    told = await images.load(archive)
    assert told.count(f"Loaded image: {name}") == 1
    assert "already exists, renaming the old one" in told
    assert (await images.inspect(name)).id == amd64
    assert (await images.inspect(name, platform="linux/arm64")).id == arm64
    assert await images.save(name) == archive
    await images.remove(name)
    with pytest.raises(DavitError, match="no image for the platform linux/s390x, but for linux/amd64, linux/arm64/v8"):
        await images.load(archive, platforms=["linux/arm64", "linux/s390x"])
    await images.load(archive, platforms=["linux/arm64"])
    assert (await images.inspect(name)).id == arm64
    with pytest.raises(NotFound):
        await images.inspect(name, platform="linux/amd64")


async def test_skopeo_takes_a_platform_of_a_saved_index(
    images: Images, registry: DockerRegistry, tmp_path: Path
) -> None:
    if shutil.which("skopeo") is None:
        missing("skopeo")
    name, _, arm64 = await both_pulled(images, registry)
    saved, layout = tmp_path / "saved.tar", tmp_path / "layout"
    saved.write_bytes(await images.save(name))
    layout.mkdir()
    with tarfile.open(saved) as tar:
        tar.extractall(layout, filter="data")
    await skopeo("--override-arch=arm64", "--override-variant=v8", "copy", f"oci:{layout}", f"dir:{tmp_path}/one")
    manifest = json.loads((tmp_path / "one/manifest.json").read_text())
    assert manifest["config"]["digest"] == arm64
    await skopeo("copy", "--all", f"oci:{layout}", f"oci:{tmp_path}/all:1")


async def test_an_index_in_an_index(images: Images, registry: DockerRegistry) -> None:
    """Such as two builds' indexes under one name: the first that has the platform is taken."""
    name, _ = await multi_platform(images, registry)
    async with httpx.AsyncClient(base_url=f"http://{registry.domain}") as client:
        data = (await client.get("/v2/app/manifests/multi", headers={"Accept": OCI_INDEX})).content
        empty = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}).encode()
        inside = []
        for index in (empty, data):
            put = await client.put(
                f"/v2/app/manifests/{digest_of(index)}", content=index, headers={"Content-Type": OCI_INDEX}
            )
            assert put.status_code == 201
            inside.append({"mediaType": OCI_INDEX, "digest": digest_of(index), "size": len(index)})
        outer = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": inside}).encode()
        put = await client.put("/v2/app/manifests/outer", content=outer, headers={"Content-Type": OCI_INDEX})
        assert put.status_code == 201
    outer_name = name.replace(":multi", ":outer")
    told = texts(await images.pull(outer_name, platform="linux/arm64"))
    assert told[-2] == f"Digest: {digest_of(outer)}"
    assert (await images.inspect(outer_name)).architecture == "arm64"
    with pytest.raises(DavitError, match="no matching manifest for linux/s390x"):
        await images.pull(outer_name, platform="linux/s390x")


@pytest.mark.parametrize(
    ("kind", "extra"),
    [
        ("application/vnd.cncf.helm.config.v1+json", {}),
        ("application/vnd.oci.empty.v1+json", {"artifactType": "application/vnd.example.sbom"}),
    ],
)
async def test_an_artifact_is_no_image(
    images: Images, registry: DockerRegistry, kind: str, extra: dict[str, str]
) -> None:
    config = b"{}"
    async with httpx.AsyncClient(base_url=f"http://{registry.domain}") as client:
        begun = await client.post("/v2/chart/blobs/uploads/")
        sent = await client.put(f"{begun.headers['location']}&digest={digest_of(config)}", content=config)
        assert sent.status_code == 201
        manifest = {
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "layers": [],
            "config": {"mediaType": kind, "digest": digest_of(config), "size": len(config)}, **extra,
        }  # fmt: skip
        put = await client.put(
            "/v2/chart/manifests/1",
            content=json.dumps(manifest).encode(),
            headers={"Content-Type": str(manifest["mediaType"])},
        )
        assert put.status_code == 201
    named = extra.get("artifactType", kind).replace("+", r"\+")
    with pytest.raises(DavitError, match=f'unsupported media type "{named}": it is an artifact and no image'):
        await images.pull(f"{registry.domain}/chart:1")
    assert await images.list(all=True) == []
