"""Images as creations need them: one that was resolved a moment ago need not be asked for again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from shared.clock import Clock
from shared.contracts.images import RESOLVED_FOR_S, ResolvedImage
from shared.state.mark import Mark, Value

Resolve = Callable[[str, str], Awaitable[ResolvedImage]]
# Half of the time for which the image is held is left for the creation.
AGAIN_WITHIN_S = RESOLVED_FOR_S / 2
MOST = 64


@dataclass(frozen=True, slots=True)
class _Resolved:
    mark: Value
    at: float
    image: ResolvedImage


class RecentImages:
    """Resolves images; again from memory while nothing has been committed by the image service.

    That the image is held counts from when it was asked for, which is what is told with it.

    Args:
        resolve: Asks, with a reference and a platform.
        mark: Of the image service's database.
    """

    def __init__(self, resolve: Resolve, mark: Mark, clock: Clock) -> None:
        self._resolve = resolve
        self._mark = mark
        self._clock = clock
        self._recent: dict[tuple[str, str], _Resolved] = {}

    async def get(self, ref: str, platform: str) -> tuple[ResolvedImage, float]:
        """An image, and when it was resolved, by the monotonic clock. Raises as `resolve` does."""
        key, mark, now = (ref, platform), self._mark.read(), self._clock.monotonic()
        known = self._recent.get(key)
        if known is not None and known.mark == mark and now - known.at < AGAIN_WITHIN_S:
            return known.image.model_copy(deep=True), known.at
        image = await self._resolve(ref, platform)
        self._recent.pop(key, None)
        if mark is not None:
            if len(self._recent) >= MOST:
                del self._recent[next(iter(self._recent))]
            self._recent[key] = _Resolved(mark, now, image.model_copy(deep=True))
        return image, now
