"""Work that outlives the request that began it: owned here, ended with the service, its failures reported once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from shared.bus.context import current_context, use_context
from shared.bus.streams import StreamBroken, StreamCancelled
from shared.errors import DavitError, Internal

log = logging.getLogger(__name__)


class Jobs:
    """The running jobs of this process."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Run a job with the request's actor and ids, but without its deadline: its stream says when it ends."""
        with use_context(current_context().with_deadline(None)):
            task = asyncio.get_running_loop().create_task(self._run(work, name), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, work: Coroutine[Any, Any, None], name: str) -> None:
        try:
            await work
        except (StreamCancelled, StreamBroken) as error:
            log.info("%s ended early: %s", name, error)
        except Internal:
            log.exception("%s failed", name)
        except DavitError as error:  # the client has heard of it on the stream
            log.info("%s failed: %s", name, error)
        except Exception:
            log.exception("%s failed", name)

    async def close(self) -> None:
        """Cancel what runs, and wait until it has cleaned up."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
