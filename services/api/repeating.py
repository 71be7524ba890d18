"""Requests whose server may die over them: asked again where that cannot do the work twice.

What makes a repetition safe differs: a key by which control knows the wish again, an id chosen here, or an outcome
that tells that the first attempt did it ("no such container" after a removal).
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from shared.errors import DavitError, Interrupted

T = TypeVar("T")

if TYPE_CHECKING:
    from shared.bus.streams import ByteStream

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


class Offers:
    """Streams offered with a request, one for each time that it is asked.

    Who takes the request again after its server died knows whether it was carried out. If so, it leaves the new stream
    alone and the earlier one counts; else, whoever had accepted that has died, and it accepts the new one.
    """

    def __init__(self, offer: Callable[[], Awaitable[ByteStream]]) -> None:
        self._offer = offer
        self._streams: list[ByteStream] = []

    async def another(self) -> ByteStream:
        self._streams.append(await self._offer())
        return self._streams[-1]

    async def accepted(self) -> ByteStream:
        """The one that counts; the others are ended."""
        chosen = next((one for one in reversed(self._streams) if one.accepted), self._streams[-1])
        self._streams.remove(chosen)
        await self.end()
        return chosen

    async def end(self) -> None:
        for stream in self._streams:
            with contextlib.suppress(DavitError):  # its other end may have gone first
                await stream.cancel("not needed")
                await stream.aclose()
