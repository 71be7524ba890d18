"""Blocking work in threads on what an event loop delivers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from shared.errors import Unavailable

Result = TypeVar("Result")


class Bridge:
    """Lets a thread wait for coroutines of a loop. `cut` makes the thread's next wait fail, so that it ends."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._cut = False
        self._waiting: set[asyncio.Future[Any]] = set()

    def wait(self, call: Callable[[], Awaitable[Result]]) -> Result:
        """From the thread: run a coroutine on the loop and give its result."""
        if self._cut:
            raise Unavailable("the work was cancelled")

        async def run() -> Result:
            task = asyncio.ensure_future(call())
            self._waiting.add(task)
            try:
                return await task
            except asyncio.CancelledError as error:
                raise Unavailable("the work was cancelled") from error
            finally:
                self._waiting.discard(task)

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result()

    def cut(self) -> None:
        """From the loop: the thread shall end."""
        self._cut = True
        for task in list(self._waiting):
            task.cancel()

    async def run(self, work: Callable[[], Result]) -> Result:
        """Run blocking work in a thread; when this is cancelled, so is the work, and it has ended on return."""
        task = asyncio.ensure_future(asyncio.to_thread(work))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self.cut()
            await asyncio.gather(task, return_exceptions=True)
            raise
