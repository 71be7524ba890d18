"""Builds that need no container, in the service's own stores: on SQLite and Postgres, with a real bus."""

from __future__ import annotations

import pytest

from shared.contracts import images as contracts
from shared.contracts.images import BuildCachePrune
from tests.integration.image.conftest import Images, Lines

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
