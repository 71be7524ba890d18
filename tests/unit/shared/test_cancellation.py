from __future__ import annotations

import asyncio

import pytest

from shared.cancellation import to_the_end


async def _work(go_on: asyncio.Event, done: list[str]) -> str:
    await go_on.wait()
    done.append("done")
    return "result"


async def test_the_result_is_handed_on() -> None:
    go_on = asyncio.Event()
    go_on.set()
    assert await to_the_end(asyncio.ensure_future(_work(go_on, []))) == "result"


async def test_a_cancellation_waits_for_the_work_and_is_not_lost() -> None:
    go_on, done = asyncio.Event(), list[str]()
    waiting = asyncio.create_task(to_the_end(asyncio.ensure_future(_work(go_on, done))))
    for _ in range(3):
        await asyncio.sleep(0)
        waiting.cancel()
    await asyncio.sleep(0)
    assert not waiting.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert done == ["done"]


async def test_what_the_work_failed_with_counts_more_than_a_cancellation() -> None:
    work: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(to_the_end(work))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.sleep(0)
    work.set_exception(OSError("full"))
    with pytest.raises(OSError, match="full"):
        await waiting
