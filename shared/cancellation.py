"""Work that must not be left half way when whoever waits for it is cancelled."""

from __future__ import annotations

import asyncio
from typing import TypeVar

Result = TypeVar("Result")


async def to_the_end(work: asyncio.Future[Result]) -> Result:
    """Wait for a future until it is done, however often the waiting task is cancelled meanwhile; its result.

    Raises:
        asyncio.CancelledError: The work is done, and the waiting task was cancelled.
        Exception: What the work failed with, cancelled or not.
    """
    cancelled = False
    while not work.done():
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            cancelled = True
        except Exception:  # raised below, by result()
            pass
    result = work.result()
    if cancelled:
        raise asyncio.CancelledError
    return result
