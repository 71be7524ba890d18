"""What a build that cannot begin leaves behind: nothing."""

from __future__ import annotations

import os
from contextlib import closing
from typing import Any, cast

import pytest

from services.image.build.handlers import BuildHandlers
from shared.bus.handover import Sender
from shared.bus.streams import StreamRef
from shared.contracts.images import BuildImage
from shared.errors import Unavailable


class ClosedBus:
    stream_scope = ""

    async def listen(self, subject: str, received: Any) -> Any:
        raise Unavailable("the bus is closed")


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_a_context_is_closed_when_its_stream_cannot_be_had() -> None:
    nothing = cast(Any, None)
    handlers = BuildHandlers(nothing, nothing, nothing, cast(Any, ClosedBus()))
    with closing(Sender()) as context:
        before = _open_files()
        with pytest.raises(Unavailable, match="the bus is closed"):
            await handlers.build(BuildImage(stream=StreamRef(id="s"), context=context.ref()))
        assert _open_files() == before
