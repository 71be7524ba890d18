"""Requests whose server may die over them: asked again where that cannot do the work twice.

What makes a repetition safe differs: a key by which control knows the wish again, an id chosen here, or an outcome
that tells that the first attempt did it ("no such container" after a removal).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from shared.errors import DavitError, Interrupted

T = TypeVar("T")

# A request that kills its server each time must not do so for ever.
ATTEMPTS = 4


async def until_answered(work: Callable[[int], Awaitable[T]], *, done: tuple[type[DavitError], ...] = ()) -> T | None:
    """Do `work`, and again while its server dies over it.

    Args:
        work: Gets the number of earlier attempts.
        done: Errors which, from a repetition, mean that an earlier attempt succeeded; the answer is None then.

    Raises:
        Interrupted: Its server died each time.
    """
    for attempt in range(ATTEMPTS):
        try:
            return await work(attempt)
        except Interrupted:
            if attempt + 1 == ATTEMPTS:
                raise
        except done:
            if attempt == 0:
                raise
            return None
    raise AssertionError("unreachable")
