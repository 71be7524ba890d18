"""Cache mounts: who waits for whom, also between processes, and what is never seen half done."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from services.image.build.cache.cachedirs import CacheDirectories

WAIT_S = 0.3


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def hold(caches: CacheDirectories, sharing: str = "shared", **options: Any) -> Any:
    return caches.use("/cache", sharing=sharing, mode=0o755, uid=0, gid=0, **options)


async def held(stack: AsyncExitStack, caches: CacheDirectories, sharing: str) -> Path | None:
    """The directory of a cache; None when it has to be waited for."""
    try:
        async with asyncio.timeout(WAIT_S):
            path: Path = await stack.enter_async_context(hold(caches, sharing))
            return path
    except TimeoutError:
        return None


@pytest.mark.parametrize(
    ("first", "second", "waits"),
    [
        ("shared", "shared", False),
        ("shared", "locked", True),
        ("locked", "shared", True),
        ("locked", "locked", True),
        ("private", "private", False),
        ("private", "locked", True),
    ],
)
async def test_who_waits_for_whom(root: Path, first: str, second: str, waits: bool) -> None:
    # Two objects, as two copies of the service have them.
    async with AsyncExitStack() as stack:
        one = await held(stack, CacheDirectories(root), first)
        two = await held(stack, CacheDirectories(root), second)
        assert one is not None
        assert (two is None) is waits
        assert (one == two) is (first == second == "shared")
    async with AsyncExitStack() as stack:
        assert await held(stack, CacheDirectories(root), second) == one


COUNT_ALONE = """
import asyncio, sys
from pathlib import Path
from services.image.build.cache.cachedirs import CacheDirectories

async def work():
    for _ in range(10):
        caches = CacheDirectories(Path(sys.argv[1]))
        async with caches.use("/cache", sharing="locked", mode=0o755, uid=0, gid=0) as path:
            counter = path / "counter"
            number = int(counter.read_text()) if counter.exists() else 0
            await asyncio.sleep(0.002)  # lets others in, if anything does
            counter.write_text(str(number + 1))

asyncio.run(work())
"""


def test_locked_holds_between_processes(root: Path) -> None:
    processes = [subprocess.Popen([sys.executable, "-c", COUNT_ALONE, str(root)]) for _ in range(3)]
    for process in processes:
        assert process.wait(30) == 0
    (counter,) = root.glob("*/fs/counter")
    assert counter.read_text() == "30"


async def test_a_first_filling_that_fails_leaves_no_cache(root: Path) -> None:
    caches = CacheDirectories(root)

    def fail(path: Path) -> None:
        (path / "half").touch()
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        async with hold(caches, fill=fail):
            pass
    assert caches.entries() == []
    async with hold(caches, fill=lambda path: (path / "whole").touch()) as path:
        assert [item.name for item in path.iterdir()] == ["whole"]
    async with hold(caches, fill=fail) as path:  # there already
        assert [item.name for item in path.iterdir()] == ["whole"]


async def test_a_cancelled_build_keeps_a_cache_until_it_is_filled(root: Path) -> None:
    caches = CacheDirectories(root)
    filling, go_on = threading.Event(), threading.Event()

    def slowly(path: Path) -> None:
        filling.set()
        go_on.wait(10)
        (path / "whole").touch()

    async def build() -> None:
        async with hold(caches, fill=slowly):
            pass

    task = asyncio.create_task(build())
    await asyncio.to_thread(filling.wait, 10)
    task.cancel()
    async with AsyncExitStack() as stack:
        assert await held(stack, CacheDirectories(root), "shared") is None
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with hold(caches) as path:
        assert [item.name for item in path.iterdir()] == ["whole"]


async def test_removing_spares_what_is_in_use_and_leaves_nothing(root: Path) -> None:
    caches, other = CacheDirectories(root), CacheDirectories(root)
    async with hold(caches) as path:
        (path / "file").write_bytes(b"12345")
        (entry,) = other.entries()
        assert other.in_use(entry.name)
        assert other.remove(entry.name) == 0
    assert not other.in_use(entry.name)
    assert other.remove(entry.name) == 5
    assert list(root.iterdir()) == []
    assert not other.in_use(entry.name)
    assert other.remove(entry.name) == 0


async def test_a_waiting_build_gets_a_cache_that_was_removed_meanwhile(root: Path) -> None:
    caches = CacheDirectories(root)
    async with hold(caches) as path:
        (path / "old").touch()
    (entry,) = caches.entries()
    async with AsyncExitStack() as holding, AsyncExitStack() as stack:
        await holding.enter_async_context(hold(caches))
        waiting = asyncio.create_task(stack.enter_async_context(hold(caches, "locked")))
        await asyncio.sleep(0.05)
        await holding.aclose()
        assert caches.remove(entry.name) == 0
        path = await asyncio.wait_for(waiting, 5)
        assert list(path.iterdir()) == []
