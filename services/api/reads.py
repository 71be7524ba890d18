"""Answers that are given again while a proof holds that nothing has been committed since they were made.

::

    GET ──► mark of the databases that the answer is made from ──► the same as when the answer was asked for?
              │ yes, and its time has not run out                       the bytes as they are
              │ no, or it cannot be known here                          ask the service; keep the answer with the mark

The mark is read before the service is asked, so an answer is never newer in name than it is; and it is read for every
request, so no answer is older than the moment in which its request came. What each database is asked is up to the
routes: `services.api.routes`.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from starlette.responses import Response

from shared.docker.status import FOR_EVER_NS
from shared.state.mark import Mark, Several, Unknown, Value

# What is kept: so many answers, of so many bytes in all, the least recently used going first.
MOST_ANSWERS = 512
MOST_BYTES = 16 << 20


class Body(Protocol):
    """The bytes of an answer, which may change with the time alone."""

    def at(self, now_ns: int) -> bytes: ...

    def size(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Fixed:
    """Bytes that stay."""

    content: bytes

    def at(self, now_ns: int) -> bytes:
        return self.content

    def size(self) -> int:
        return len(self.content)


@dataclass(slots=True)
class Answer:
    """A successful answer in JSON.

    Attributes:
        until_ns: When it is to be asked for anew, whatever the mark says; nanoseconds since the epoch, 0 for at once.
    """

    body: Body
    headers: Mapping[str, str] = field(default_factory=dict)
    until_ns: int = FOR_EVER_NS
    _made: tuple[bytes, Response] | None = None

    def response(self, now_ns: int) -> Response:
        """The response, which may be sent any number of times."""
        content = self.body.at(now_ns)
        if self._made is None or self._made[0] is not content:
            self._made = content, Response(content, 200, dict(self.headers), media_type="application/json")
        return self._made[1]


@dataclass(slots=True)
class _Kept:
    mark: Value
    answer: Answer


class Reads:
    """What the edge keeps of what it has answered.

    Args:
        marks: By service; a service that has none here is always asked.
    """

    def __init__(self, marks: Mapping[str, Mark] | None = None, now_ns: Callable[[], int] = time.time_ns) -> None:
        self._marks = marks or {}
        self._now_ns = now_ns
        self._several: dict[tuple[str, ...], Several] = {}
        self._kept: OrderedDict[Any, _Kept] = OrderedDict()
        self._bytes = 0
        self._asking: dict[Any, tuple[Value, asyncio.Future[Answer | None]]] = {}

    async def answer(self, key: Any, services: Sequence[str], ask: Callable[[], Awaitable[Answer]]) -> Response:
        """The answer to a request.

        Args:
            key: All that the answer depends on beside the databases: path, query, version, whoever sees less.
            services: Whose databases the answer is made from, all of them.
            ask: Makes the answer; what it raises is nobody else's.
        """
        mark = self._mark(tuple(services))
        if mark is None:
            return (await ask()).response(self._now_ns())
        kept = self._kept.get(key)
        now_ns = self._now_ns()
        if kept is not None and kept.mark == mark and now_ns < kept.answer.until_ns:
            self._kept.move_to_end(key)
            return kept.answer.response(now_ns)
        answer = await self._ask(key, mark, ask)
        return answer.response(self._now_ns())

    def _mark(self, services: tuple[str, ...]) -> Value | None:
        several = self._several.get(services)
        if several is None:
            several = self._several[services] = Several([self._marks.get(name, Unknown()) for name in services])
        return several.read()

    async def _ask(self, key: Any, mark: Value, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        """Ask once for all who came in the same state. Who fails, fails alone: the others ask for themselves then."""
        asking = self._asking.get(key)
        if asking is not None and asking[0] == mark:
            return await asyncio.shield(asking[1]) or await ask()
        future: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()
        self._asking[key] = mark, future
        answer = None
        try:
            answer = await ask()
        finally:
            future.set_result(answer)
            if self._asking.get(key, (mark, None))[1] is future:
                del self._asking[key]
        self._keep(key, _Kept(mark, answer))
        return answer

    def _keep(self, key: Any, kept: _Kept) -> None:
        self._drop(key)
        size = kept.answer.body.size()
        if kept.answer.until_ns <= 0 or size > MOST_BYTES // 4:
            return
        self._kept[key] = kept
        self._bytes += size
        while len(self._kept) > MOST_ANSWERS or self._bytes > MOST_BYTES:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: Any) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self._bytes -= kept.answer.body.size()
