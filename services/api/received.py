"""Request bodies handed to a service of the same machine through a pipe, while they arrive."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.bus.handover import Sender
from shared.errors import Unavailable

if TYPE_CHECKING:
    from services.api.call import Call

# Clients send in small pieces; handing on each of them takes longer at both ends than it does.
SEND_BYTES = 128 * 1024


async def send_body(call: Call, pipe: Sender) -> None:
    """Write the request's body to a pipe.

    Raises:
        Unavailable: The service reads no further; it tells why itself.
    """
    waiting: list[bytes] = []
    size = 0
    try:
        async for chunk in call.stream():
            waiting.append(chunk)
            size += len(chunk)
            if size >= SEND_BYTES:
                await pipe.write(b"".join(waiting))
                waiting.clear()
                size = 0
        await pipe.write(b"".join(waiting))
    except BrokenPipeError as error:
        raise Unavailable("the request's body is read no further") from error
