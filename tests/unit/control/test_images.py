"""An image that was resolved a moment ago is used again, for as long as it is held and is what its name means."""

from __future__ import annotations

import pytest

from services.executor.control.creation.images import AGAIN_WITHIN_S, MOST, RecentImages
from shared.clock import SystemClock
from shared.contracts.docker import ContainerConfig
from shared.contracts.images import ResolvedImage
from shared.errors import NotFound
from shared.state.mark import Value


class ManualClock(SystemClock):
    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds

    def advance(self, seconds: float) -> None:
        self.seconds += seconds


class Images:
    """The image service, and the mark of its database."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.mark: Value | None = (1,)
        self.id = "sha256:1"

    def read(self) -> Value | None:
        return self.mark

    async def resolve(self, ref: str, platform: str) -> ResolvedImage:
        self.asked.append((ref, platform))
        if ref == "missing":
            raise NotFound("No such image: missing")
        return ResolvedImage(id=self.id, config=ContainerConfig(), layers=["sha256:a"])


@pytest.fixture
def images() -> Images:
    return Images()


async def test_it_is_asked_for_again_when_it_may_be_another_or_is_not_held_long_enough(images: Images) -> None:
    clock = ManualClock()
    recent = RecentImages(images.resolve, images, clock)
    first, at = await recent.get("busybox", "")
    clock.advance(AGAIN_WITHIN_S * 0.9)
    again, still = await recent.get("busybox", "")
    assert (again, still, len(images.asked)) == (first, at, 1)  # held since the first time
    again.layers.append("changed by who got it")
    assert (await recent.get("busybox", ""))[0] == first
    await recent.get("busybox", "linux/arm64")
    assert len(images.asked) == 2
    images.mark, images.id = (2,), "sha256:2"
    assert (await recent.get("busybox", ""))[0].id == "sha256:2"
    clock.advance(AGAIN_WITHIN_S * 1.1)
    await recent.get("busybox", "")
    assert len(images.asked) == 4


async def test_without_a_mark_it_is_always_asked_for(images: Images) -> None:
    images.mark = None
    recent = RecentImages(images.resolve, images, ManualClock())
    await recent.get("busybox", "")
    await recent.get("busybox", "")
    assert len(images.asked) == 2


async def test_failures_are_not_kept_and_what_is_kept_is_bounded(images: Images) -> None:
    recent = RecentImages(images.resolve, images, ManualClock())
    for _ in range(2):
        with pytest.raises(NotFound):
            await recent.get("missing", "")
    assert len(images.asked) == 2
    for number in range(MOST + 5):
        await recent.get(f"image{number}", "")
    assert len(recent._recent) == MOST
