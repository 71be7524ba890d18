"""Builds that need no container, in the service's own stores: on SQLite and Postgres, with a real bus."""

from __future__ import annotations

import hashlib
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from shared.contracts import images as contracts
from shared.contracts.images import BuildCachePrune
from shared.errors import DavitError
from tests.integration.image.conftest import Images, Lines, rootfs

pytestmark = pytest.mark.root
DOCKERFILE = "FROM scratch\nCOPY file /\nENV a=1\nWORKDIR /new\nLABEL l=1\nCMD x\n"
FILES = {"file": b"content"}


def text(lines: Lines) -> str:
    return "".join(line.get("stream", "") for line in lines)


def built(lines: Lines) -> str:
    return str([line["aux"]["ID"] for line in lines if "aux" in line][-1])


async def test_the_newest_of_equal_steps_is_the_cache(images: Images) -> None:
    first = await images.build(DOCKERFILE, FILES)
    anew = await images.build(DOCKERFILE, FILES, no_cache=True)
    assert built(anew) != built(first)
    again = await images.build(DOCKERFILE, FILES, tags=["app:1"])
    assert text(again).count("Using cache") == 5
    assert built(again) == built(anew)
    assert (await images.inspect("app:1")).id == built(anew)


async def test_a_change_ends_the_cache_where_it_is(images: Images) -> None:
    await images.build(DOCKERFILE, FILES)
    other = await images.build(DOCKERFILE.replace("l=1", "l=2"), FILES)
    assert text(other).count("Using cache") == 3
    changed = await images.build(DOCKERFILE, {"file": b"changed"})
    assert "Using cache" not in text(changed)
    image = await images.inspect(built(other))
    assert (images.files(image.chain_ids[0]) / "file").read_bytes() == b"content"
    assert (image.config.labels, image.config.working_dir) == ({"l": "2"}, "/new")


async def test_pruned_steps_are_no_cache(images: Images) -> None:
    first = await images.build(DOCKERFILE, FILES)
    pruned = await images.bus.request(contracts.BUILD_PRUNE, BuildCachePrune())
    assert built(first) in pruned.deleted
    assert await images.list(all=True) == []
    assert images.layers() == set()
    again = await images.build(DOCKERFILE, FILES)
    assert "Using cache" not in text(again)
    assert images.is_clean()


@pytest.mark.parametrize(
    ("filters", "removed"),
    [
        ({"until": ["1h"]}, False),
        ({"unused-for": ["0s"]}, True),
        ({"id": ["ID"]}, True),
        ({"id": ["ffff"]}, False),
        ({"type": ["exec.cachemount"]}, False),
        ({"type": ["regular"]}, True),
        ({"parent": ["sha256:0"]}, False),
        ({"description": ["cached mount /x"]}, False),
        ({"inuse": ["1"]}, False),
    ],
)
async def test_prune_filters(images: Images, filters: dict[str, list[str]], removed: bool) -> None:
    image_id = built(await images.build("FROM scratch\nENV a=1\n"))
    chosen = {name: [text.replace("ID", image_id[7:19]) for text in texts] for name, texts in filters.items()}
    pruned = await images.bus.request(contracts.BUILD_PRUNE, BuildCachePrune(filters=chosen))
    assert (pruned.deleted == [image_id]) is removed
    assert (await images.list(all=True) == []) is removed


@pytest.mark.parametrize(
    ("filters", "text"),
    [
        ({"shared": ["1"]}, "build cache filter shared is not supported"),
        ({"id": ["a", "b"]}, "filters expect only one value for id"),
        ({"until": ["1h"], "unused-for": ["1h"]}, "conflicting filters: until and unused-for"),
        ({"until": ["soon"]}, "invalid value for until"),
    ],
)
async def test_prune_filters_that_cannot_be(images: Images, filters: dict[str, list[str]], text: str) -> None:
    with pytest.raises(DavitError, match=text):
        await images.bus.request(contracts.BUILD_PRUNE, BuildCachePrune(filters=filters))


async def test_an_image_of_another_platform_is_none(images: Images) -> None:
    await images.import_tar(rootfs({"f": b""}), "base:1", platform="linux/arm64")
    mismatch = (
        "image with reference base:1 was found but does not match the specified platform: wanted linux/s390x, "
        "actual: linux/arm64: Get "
    )
    with pytest.raises(DavitError, match=mismatch):
        await images.build("FROM base:1\n", platform="linux/s390x")
    lines = await images.build("FROM --platform=linux/arm64 base:1\nENV a=1\n")
    assert (await images.inspect(built(lines))).architecture == "arm64"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A web server with a file and a repository: tag v1, and a directory ``sub``."""
    place = tmp_path_factory.mktemp("served")
    (place / "file").write_bytes(b"downloaded")
    work = place / "work"
    (work / "sub").mkdir(parents=True)
    (work / "sub" / "g").write_text("in sub")
    (work / "f").write_text("in repository")
    (work / "ignored").write_text("x")
    (work / ".dockerignore").write_text("ignored\n")
    (work / "Other").write_text("FROM scratch\nCOPY . /\n")
    (work / "Other.dockerignore").write_text("*\n!f\n")
    (work / "Dockerfile").write_text("FROM scratch\nCOPY . /\n")
    for command in (
        ["init", "-q", "-b", "main"],
        ["add", "."],
        ["-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-q", "-m", "first"],
        ["tag", "v1"],
        ["clone", "-q", "--bare", ".", "../repo.git"],
        ["-C", "../repo.git", "update-server-info"],
    ):
        subprocess.run(["git", *command], cwd=work, check=True)
    handler = partial(QuietHandler, directory=str(place))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


async def files_of(images: Images, lines: Lines) -> dict[str, bytes]:
    """The files of an image that a build made, below its layers."""
    found: dict[str, bytes] = {}
    for chain_id in (await images.inspect(built(lines))).chain_ids:
        root = images.files(chain_id)
        found |= {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    return found


async def test_add_checks_what_it_downloads(images: Images, url: str) -> None:
    digest = hashlib.sha256(b"downloaded").hexdigest()
    lines = await images.build(f"FROM scratch\nADD --checksum=sha256:{digest} {url}/file /there\n")
    assert await files_of(images, lines) == {"there": b"downloaded"}
    wrong = "0" * 64
    with pytest.raises(DavitError, match=f"digest mismatch sha256:{digest}: sha256:{wrong}"):
        await images.build(f"FROM scratch\nADD --checksum=sha256:{wrong} {url}/file /\n")
    with pytest.raises(DavitError, match="invalid checksum digest format: md5:x"):
        await images.build(f"FROM scratch\nADD --checksum=md5:x {url}/file /\n")
    with pytest.raises(DavitError, match="checksum can't be specified for non-HTTP"):
        await images.build(f"FROM scratch\nADD --checksum=sha256:{digest} file /\n", FILES)
    assert images.is_clean()


async def test_add_of_a_repository(images: Images, url: str) -> None:
    sub = await images.build(f"FROM scratch\nADD {url}/repo.git#v1:sub /s\nADD {url}/repo.git /all/\n")
    files = await files_of(images, sub)
    assert files["s/g"] == b"in sub"
    assert sorted(files) == [
        "all/.dockerignore",
        "all/Dockerfile",
        "all/Other",
        "all/Other.dockerignore",
        "all/f",
        "all/ignored",
        "all/sub/g",
        "s/g",
    ]
    kept = await files_of(images, await images.build(f"FROM scratch\nADD --keep-git-dir {url}/repo.git /r\n"))
    assert "r/.git/HEAD" in kept
    with pytest.raises(DavitError, match="find remote ref nope"):
        await images.build(f"FROM scratch\nADD {url}/repo.git#nope /\n")


async def test_a_repository_as_context_is_filtered(images: Images, url: str) -> None:
    lines = await images.build("", remote=f"{url}/repo.git#main")
    assert sorted(await files_of(images, lines)) == [
        ".dockerignore",
        "Dockerfile",
        "Other",
        "Other.dockerignore",
        "f",
        "sub/g",
    ]
    own = await images.build("", remote=f"{url}/repo.git#main", dockerfile="Other")
    assert sorted(await files_of(images, own)) == ["f"]
    with_git = await images.build("", remote=f"{url}/repo.git", build_args={"BUILDKIT_CONTEXT_KEEP_GIT_DIR": "1"})
    assert ".git/HEAD" in await files_of(images, with_git)
    assert "not consumed" not in text(with_git)
