"""Import, load, save, names, removal: on SQLite and Postgres, with a real bus."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import lzma
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from services.image.catalog.depot import Depot, Lease
from services.image.catalog.removal import Remover
from services.image.jobs import Jobs
from services.image.sql.catalog import SqlCatalog
from services.image.store.content import ContentStore
from shared import failpoints
from shared.bus.client import Empty
from shared.bus.streams import offer
from shared.contracts import images as contracts
from shared.contracts.containers import ImageUser
from shared.errors import Conflict, DavitError, InvalidArgument, NotFound
from shared.layers.store import LayerStore
from tests.integration.image.conftest import Images, rootfs, running
from tests.lab.nats import NatsServer
from tests.lab.netns import run

pytestmark = pytest.mark.root
FILES = {"etc/os-release": b"ID=test\n", "bin/true": b"\x7fELF"}


def depot_of(images: Images) -> Depot:
    """Another copy of the service's parts."""
    content, layers = ContentStore(images.data_root / "images"), LayerStore(images.data_root / "layers")
    return Depot(SqlCatalog(images.database), content, layers, Jobs())


async def test_an_imported_tar_is_an_image(images: Images) -> None:
    image_id = await images.import_tar(
        rootfs(FILES), "app:1", message="made by hand", changes=["CMD echo hi", "ENV A=1", "LABEL x=y"]
    )
    image = await images.inspect("app:1")
    assert (image.id, image.repo_tags, image.comment) == (image_id, ["app:1"], "made by hand")
    assert image.config.cmd == ["/bin/sh", "-c", "echo hi"]
    assert image.config.env == ["A=1"]
    assert image.config.labels == {"x": "y"}
    assert image.size_bytes == sum(len(data) for data in FILES.values())
    [layer] = image.chain_ids
    assert (images.files(layer) / "etc/os-release").read_bytes() == b"ID=test\n"
    resolved = await images.bus.request(contracts.RESOLVE, contracts.ImageRef(ref="app:1"))
    assert (resolved.id, resolved.layers, resolved.config.env) == (image_id, [layer], ["A=1"])
    assert images.is_clean()


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress])
async def test_compressed_tars_give_the_same_layer(images: Images, pack: object) -> None:
    assert callable(pack)
    data = rootfs(FILES)
    await images.import_tar(data, "plain:1")
    await images.import_tar(pack(data), "packed:1")
    plain, packed = await images.inspect("plain:1"), await images.inspect("packed:1")
    assert plain.diff_ids == packed.diff_ids
    assert len(images.layers()) == 1
    assert images.is_clean()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (rootfs({"f": b"x" * 5000})[:3000], "unexpected EOF"),
        (b"this is no tar, whatever its name says" * 50, "tar"),
        (gzip.compress(rootfs(FILES))[:-9], "gzip|EOF"),
    ],
)
async def test_a_bad_tar_leaves_nothing(images: Images, data: bytes, words: str) -> None:
    with pytest.raises(DavitError, match=words):
        await images.import_tar(data, "bad:1")
    assert await images.list() == []
    assert (images.blobs(), images.layers(), images.is_clean()) == (set(), set(), True)


async def test_changes_are_checked(images: Images) -> None:
    with pytest.raises(InvalidArgument, match="run is not a valid change command"):
        await images.import_tar(rootfs(FILES), changes=["RUN true"])
    with pytest.raises(InvalidArgument, match="invalid reference format"):
        await images.import_tar(rootfs(FILES), "Bad:1")


async def test_saved_and_loaded_again_it_is_the_same(images: Images) -> None:
    image_id = await images.import_tar(rootfs(FILES), "app:1")
    await images.tag("app:1", "other:2")
    archive = await images.save("app:1", "other:2")
    assert await images.save("app:1", "other:2") == archive
    before = await images.inspect(image_id)
    await images.remove(image_id, force=True)
    assert (images.blobs(), images.layers()) == (set(), set())
    assert await images.load(archive) == "Loaded image: app:1\nLoaded image: other:2\n"
    after = await images.inspect("app:1")
    assert (after.id, after.repo_tags, after.manifest_digest) == (
        image_id,
        ["app:1", "other:2"],
        before.manifest_digest,
    )
    assert await images.save("app:1", "other:2") == archive
    assert await images.load(gzip.compress(archive)) == "Loaded image: app:1\nLoaded image: other:2\n"
    assert images.is_clean()


async def test_an_image_without_a_name_is_loaded_by_its_id(images: Images) -> None:
    image_id = await images.import_tar(rootfs(FILES))
    archive = await images.save(image_id)
    await images.remove(image_id)
    assert await images.load(archive) == f"Loaded image ID: {image_id}\n"


def docker_archive(
    config: Mapping[str, object], layers: dict[str, bytes], extra: dict[str, bytes] | None = None
) -> bytes:
    data = json.dumps(config).encode()
    manifest = [{"Config": "c.json", "RepoTags": ["x:1"], "Layers": list(layers)}]
    return rootfs({**layers, "c.json": data, "manifest.json": json.dumps(manifest).encode(), **(extra or {})})


async def test_bad_archives_leave_nothing(images: Images) -> None:
    import hashlib

    layer = rootfs(FILES)
    diff_id = f"sha256:{hashlib.sha256(layer).hexdigest()}"
    good = {"rootfs": {"type": "layers", "diff_ids": [diff_id]}, "os": "linux", "architecture": "amd64"}
    wrong = {**good, "rootfs": {"diff_ids": ["sha256:" + "0" * 64]}}
    for archive, words in (
        (docker_archive(wrong, {"l.tar": layer}), "diffID"),
        (docker_archive(good, {}), "0 layers"),
        (docker_archive(good, {"l.tar": layer[:515]}), "unexpected EOF"),  # cut within a file's bytes
        (docker_archive(good, {"l.tar": layer[:700]}), "diffID"),  # what follows them ends a tar anywhere, as in Go
        (docker_archive(good, {"l.tar": layer})[:1500], "unexpected EOF"),
        (rootfs({"manifest.json": b"{}"}), "manifest.json"),
        (rootfs({"manifest.json": b"[{}]"}), "configuration or layers"),
        (rootfs({"some": b"file"}), "neither manifest.json nor index.json"),
        (docker_archive({"rootfs": {"diff_ids": "x"}}, {"l.tar": layer}), "diff_ids"),
    ):
        with pytest.raises(DavitError, match=words):
            await images.load(archive)
        assert await images.list() == []
        assert (images.is_clean(), words, images.layers()) == (True, words, set())
    await images.load(docker_archive(good, {"l.tar": layer}))
    assert (await images.inspect("x:1")).diff_ids == [diff_id]


@pytest.mark.parametrize("what", ["load", "import"])
async def test_a_client_that_goes_away_leaves_nothing(images: Images, what: str) -> None:
    data = rootfs({"f": os.urandom(3_000_000)})
    if what == "load":
        await images.import_tar(data, "app:1")
        data = await images.save("app:1")
        await images.remove("app:1")
    stream = await offer(images.bus)
    if what == "load":
        await images.bus.request(contracts.LOAD, contracts.LoadImages(stream=stream.ref))
    else:
        await images.bus.request(contracts.IMPORT, contracts.ImportImage(stream=stream.ref, repo="app"))
    await stream.write(data[:2_000_000])
    async with asyncio.timeout(10):
        while images.is_clean():  # noqa: ASYNC110  # it is in the file system, not in an event
            await asyncio.sleep(0.01)
    await stream.cancel("the client went away")
    await stream.aclose()
    async with asyncio.timeout(10):
        while not images.is_clean():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert (await images.list(), images.blobs(), images.layers()) == ([], set(), set())


@pytest.mark.parametrize("megabytes", [16, 280])
async def test_a_full_disk_is_said_and_nothing_is_left(own_nats: NatsServer, tmp_path: Path, megabytes: int) -> None:
    """The second disk has room for others, which an archive must leave."""
    data = tmp_path / "data"
    data.mkdir()
    run("mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(data))
    try:
        async with running(own_nats, f"sqlite://{tmp_path}/db", data) as images:
            with pytest.raises(DavitError, match=r"(?i)no space left on device"):
                await images.import_tar(rootfs({"f": os.urandom(30_000_000)}), "app:1")
            assert (await images.list(), images.blobs(), images.layers()) == ([], set(), set())
            assert images.is_clean()
            (data / "filler").write_bytes(b"x" * (megabytes - 1) * 1_000_000)
            with pytest.raises(DavitError, match=r"(?i)no space left on device"):
                await images.import_tar(rootfs({"f": os.urandom(2_000_000)}), "app:1")
            (data / "filler").unlink()
            assert (await images.list(), images.blobs(), images.layers()) == ([], set(), set())
            assert images.is_clean()
    finally:
        run("umount", "-l", str(data))


async def test_legacy_archives_may_link_equal_layers(images: Images) -> None:
    import hashlib

    layer = rootfs(FILES)
    diff_id = f"sha256:{hashlib.sha256(layer).hexdigest()}"
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        link = tarfile.TarInfo("b/layer.tar")
        link.type, link.linkname = tarfile.SYMTYPE, "../a/layer.tar"
        config = json.dumps({"rootfs": {"diff_ids": [diff_id, diff_id]}}).encode()
        manifest = json.dumps(
            [{"Config": "c.json", "RepoTags": None, "Layers": ["a/layer.tar", "b/layer.tar"]}]
        ).encode()
        for name, data in (("a/layer.tar", layer), ("c.json", config), ("manifest.json", manifest)):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        tar.addfile(link)
    await images.load(out.getvalue())
    [image] = await images.list()
    assert len(image.chain_ids) == 2
    assert len(images.layers()) == 2
    assert all((images.files(chain) / "bin/true").exists() for chain in image.chain_ids)


async def test_untagging_and_deleting(images: Images) -> None:
    image_id = await images.import_tar(rootfs(FILES), "a:1")
    await images.tag("a:1", "a:2")
    await images.tag("a:1", "b:1")
    short = image_id[7:19]
    with pytest.raises(Conflict) as refused:
        await images.remove(short)
    assert str(refused.value) == (
        f"conflict: unable to delete {short} (must be forced) - image is referenced in multiple repositories"
    )
    assert await images.remove("a:2") == ["Untagged: a:2"]
    assert await images.remove("a:1") == ["Untagged: a:1"]
    chain = (await images.inspect("b:1")).chain_ids[0]
    assert await images.remove("b:1") == ["Untagged: b:1", f"Deleted: {image_id}", f"Deleted: {chain}"]
    with pytest.raises(NotFound, match="No such image: b:1"):
        await images.inspect("b:1")
    assert (images.blobs(), images.layers()) == (set(), set())


async def test_an_image_in_use_stays(images: Images) -> None:
    image_id = await images.import_tar(rootfs(FILES), "a:1")
    short, container = image_id[7:19], "c" * 64
    images.users = [ImageUser(image_id=image_id, container_id=container, running=False)]
    with pytest.raises(Conflict) as by_name:
        await images.remove("a:1")
    assert str(by_name.value) == (
        f'conflict: unable to remove repository reference "a:1" (must force) - container {container[:12]} is using its '
        f"referenced image {short}"
    )
    with pytest.raises(Conflict) as by_id:
        await images.remove(image_id)
    assert str(by_id.value) == (
        f"conflict: unable to delete {short} (must be forced) - image is being used by stopped container "
        f"{container[:12]}"
    )
    images.users[0].running = True
    with pytest.raises(Conflict) as running:
        await images.remove(image_id, force=True)
    assert str(running.value) == (
        f"conflict: unable to delete {short} (cannot be forced) - image is being used by running container "
        f"{container[:12]}"
    )
    images.users[0].running = False
    chain = (await images.inspect("a:1")).chain_ids[0]
    assert await images.remove("a:1", force=True) == ["Untagged: a:1", f"Deleted: {image_id}"]
    assert await images.list() == []
    assert images.files(chain).exists(), "the container still starts from it"


async def test_a_container_created_during_a_removal_keeps_its_layers(images: Images) -> None:
    image_id = await images.import_tar(rootfs(FILES), "a:1")
    chain = (await images.inspect("a:1")).chain_ids[0]
    user = ImageUser(image_id=image_id, container_id="c" * 64, running=False)
    images.later_users = [user]  # not there when the removal looks first, and there when it is about to delete
    await images.remove("a:1")
    with pytest.raises(NotFound):
        await images.bus.request(contracts.RESOLVE, contracts.ImageRef(ref=image_id))
    assert images.files(chain).exists()
    assert (
        await images.bus.request(contracts.LAYER_SOURCES, contracts.LayerChains(chains=[chain]), node="here")
    ).layers
    await images.import_tar(rootfs(FILES), "b:1")
    images.users = []
    await images.remove("b:1")
    assert images.files(chain).exists(), "the hidden image has it as well"


async def test_an_image_that_was_just_resolved_keeps_its_layers_for_a_moment(images: Images) -> None:
    ids = [await images.import_tar(rootfs({"f": name.encode()}), name) for name in ("slow:1", "quick:1")]
    chains = [(await images.inspect(image_id)).chain_ids[0] for image_id in ids]
    for image_id in ids:
        await images.bus.request(contracts.RESOLVE, contracts.ImageRef(ref=image_id))
        await images.remove(image_id)
        with pytest.raises(NotFound):
            await images.bus.request(contracts.RESOLVE, contracts.ImageRef(ref=image_id))
    assert [images.files(chain).exists() for chain in chains] == [True, True]
    # One container is recorded in the meantime.
    images.users = [ImageUser(image_id=ids[0], container_id="c" * 64, running=False)]
    async with asyncio.timeout(contracts.RESOLVED_FOR_S + 5):
        while images.files(chains[1]).exists():  # noqa: ASYNC110  # it is in the file system, not in an event
            await asyncio.sleep(0.05)
    assert images.files(chains[0]).exists()
    await Remover(depot_of(images), images.bus).collect_hidden()
    assert images.files(chains[0]).exists()
    images.users = []
    await Remover(depot_of(images), images.bus).collect_hidden()
    assert (images.layers(), images.blobs()) == (set(), set())
    assert os.listdir(images.data_root / "images/held") == []


async def test_a_removal_that_was_cut_off_is_finished_later(images: Images) -> None:
    await images.import_tar(rootfs(FILES), "a:1")
    saved = await images.save("a:1")
    failpoints.configure("image.remove.hidden=error")
    with pytest.raises(DavitError, match=r"image\.remove\.hidden"):
        await images.remove("a:1")
    assert await images.list() == []
    assert len(images.layers()) == 1
    await images.load(saved)
    assert (await images.list())[0].repo_tags == ["a:1"], "it is shown again"
    remover = Remover(depot_of(images), images.bus)
    await remover.collect_hidden()
    assert len(images.layers()) == 1
    failpoints.configure("image.remove.hidden=error")
    with pytest.raises(DavitError, match=r"image\.remove\.hidden"):
        await images.remove("a:1")
    await remover.collect_hidden()
    assert (images.layers(), images.blobs()) == (set(), set())


async def test_layers_are_looked_up_by_chain(images: Images) -> None:
    await images.import_tar(rootfs(FILES), "a:1")
    chain = (await images.inspect("a:1")).chain_ids[0]
    asked = contracts.LayerChains(chains=[chain, "sha256:" + "0" * 64])
    sources = await images.bus.request(contracts.LAYER_SOURCES, asked, node="here")
    [layer] = sources.layers
    assert (layer.chain_id, layer.diff_id) == (chain, chain)
    assert layer.blob.removeprefix("sha256:") in images.blobs()
    assert (sources.url, sources.token) == ("", "")


async def test_prune_removes_what_has_no_name(images: Images) -> None:
    kept = await images.import_tar(rootfs({"a": b"1"}), "kept:1")
    nameless = await images.import_tar(rootfs({"b": b"22"}))
    used = await images.import_tar(rootfs({"c": b"333"}))
    images.users = [ImageUser(image_id=used, container_id="c" * 64, running=False)]
    answer = await images.bus.request(contracts.PRUNE, contracts.PruneImages())
    assert next(item.deleted for item in answer.removals if item.deleted) == nameless
    assert answer.space_reclaimed_bytes == 2
    assert {image.id for image in await images.list()} == {kept, used}
    images.users = []
    await images.bus.request(contracts.PRUNE, contracts.PruneImages(filters={"dangling": ["false"]}))
    assert await images.list() == []
    assert (images.blobs(), images.layers()) == (set(), set())


async def test_listing_filters(images: Images) -> None:
    first = await images.import_tar(rootfs({"a": b"1"}), "repo/app:1", changes=["LABEL k=v"])
    second = await images.import_tar(rootfs({"b": b"1"}), "other:2")
    dangling = await images.import_tar(rootfs({"c": b"1"}))

    async def ids(**filters: list[str]) -> set[str]:
        return {image.id for image in await images.list(filters=filters)}

    assert await ids() == {first, second, dangling}
    assert await ids(dangling=["true"]) == {dangling}
    assert await ids(dangling=["false"]) == {first, second}
    assert await ids(reference=["repo/*"]) == {first}
    assert await ids(reference=["*:2"]) == {second}
    assert await ids(label=["k"]) == {first}
    assert await ids(label=["k=w"]) == set()
    with pytest.raises(InvalidArgument, match="invalid filter 'nosuch'"):
        await ids(nosuch=["1"])


async def test_names_ids_and_prefixes_find_images(images: Images) -> None:
    image_id = await images.import_tar(rootfs(FILES), "app:latest")
    for text in ("app", "app:latest", "docker.io/library/app", image_id, image_id[7:], image_id[7:19], image_id[:20]):
        assert (await images.inspect(text)).id == image_id
    for text, words in (("nosuch", "No such image: nosuch:latest"), ("app:2", "No such image: app:2")):
        with pytest.raises(NotFound, match=words):
            await images.inspect(text)
    with pytest.raises(InvalidArgument, match="must be lowercase"):
        await images.inspect("App")


async def test_history_and_disk_usage(images: Images) -> None:
    image_id = await images.import_tar(rootfs({"a": b"12345"}), "app:1")
    entries = (await images.bus.request(contracts.HISTORY, contracts.ImageRef(ref="app:1"))).entries
    assert [(entry.id, entry.size_bytes, entry.comment, entry.tags) for entry in entries] == [
        (image_id, 5, "Imported from -", ["app:1"])
    ]
    await images.import_tar(rootfs({"a": b"12345"}), "twin:1", changes=["ENV A=1"])
    images.users = [ImageUser(image_id=image_id, container_id="c" * 64, running=True)]
    usage = await images.bus.request(contracts.DISK_USAGE, Empty())
    assert usage.layers_size_bytes == 5
    assert {(image.shared_size_bytes, image.containers) for image in usage.images} == {(5, 1), (5, 0)}


async def test_moving_a_name_leaves_the_old_image(images: Images) -> None:
    old = await images.import_tar(rootfs({"a": b"1"}), "app:1")
    archive = await images.save("app:1")
    new = await images.import_tar(rootfs({"a": b"2"}), "app:1")
    assert (await images.inspect("app:1")).id == new
    assert (await images.inspect(old)).repo_tags == []
    told = await images.load(archive)
    assert told == (
        f"The image app:1 already exists, renaming the old one with ID {new} to empty string\nLoaded image: app:1\n"
    )


async def test_a_damaged_layer_is_unpacked_again(images: Images) -> None:
    await images.import_tar(rootfs(FILES), "app:1")
    [chain] = (await images.inspect("app:1")).chain_ids
    mark = images.files(chain).parent / "unsynced"
    while mark.exists():  # noqa: ASYNC110  # until the layer is on the disk, which takes the mark away
        await asyncio.sleep(0.01)
    mark.write_text("another boot")
    (images.files(chain) / "bin/true").unlink()
    assert await depot_of(images).repair() == []
    assert (images.files(chain) / "bin/true").read_bytes() == FILES["bin/true"]
    assert os.path.exists(images.files(chain))


async def test_leases_of_dead_copies_are_given_up(images: Images) -> None:
    dead, alive = depot_of(images), depot_of(images)
    content = alive.content
    alive.presence.begin()
    blobs = [content.put(data) for data in (b"of the dead", b"of the living")]
    for depot, blob in zip((dead, alive), blobs, strict=True):
        lease = Lease(depot.catalog, content, depot.layers, depot.presence.token)
        await lease.open()
        await lease.keep(blob)
    await depot_of(images).collect()
    assert [content.has(blob) for blob in blobs] == [False, True]
