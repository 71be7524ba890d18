"""How a caller learns within seconds that the server of its request has died.

The bus tells nobody that the process which took a request is gone; without more, a caller would wait for its whole
deadline. So each request has a name, and after a while its caller asks all copies of the service who works on it::

    caller                                       every copy of the service
      │ davit.<service>.working  [names of calls] ────►│
      │◄──────── those of them that are in work there ─┤

A call that is twice in work nowhere is lost. A service that does not answer at all is stopped or overloaded, which is
no death: then the deadline decides. Fast requests cost an entry in a dictionary and one header.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import secrets
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import nats.errors
import orjson

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg

log = logging.getLogger(__name__)

HEADER_CALL = "Davit-Call"
# How often calls are looked at, and how old they are when somebody is asked about them.
PERIOD_S = 2.0
# How long the copies of a service have to answer.
ANSWER_S = 1.0
# One "no" may have crossed with the request, or with its reply.
NOES = 2
NAMES_PER_QUESTION = 5000


def working_subject(queue: str) -> str:
    """Where the copies of a service, or a node's agent, are asked what they work on."""
    return f"davit.{queue}.working"


class Working:
    """The server's side: what is in work in this process."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._names: set[str] = set()
        self._queues: set[str] = set()

    def begin(self, name: str) -> None:
        self._names.add(name)

    def end(self, name: str) -> None:
        self._names.discard(name)

    async def answer_for(self, queue: str) -> None:
        """Answer for a service, or a node's agent, until the connection is closed."""
        if queue not in self._queues:
            self._queues.add(queue)
            await self._client.subscribe(working_subject(queue), cb=self._asked)

    async def _asked(self, message: Msg) -> None:
        if message.reply:
            here = [name for name in orjson.loads(message.data) if name in self._names]
            with contextlib.suppress(nats.errors.Error, OSError):  # who asks, asks again
                await self._client.publish(message.reply, orjson.dumps(here))


@dataclass(slots=True, eq=False)
class Call:
    """A request without an answer yet. lost: nobody works on it."""

    name: str
    queue: str
    since: float
    scope: asyncio.Timeout
    noes: int = 0
    lost: bool = False

    def lose(self, now: float) -> None:
        self.lost = True
        self.scope.reschedule(now)


class Waiting:
    """The caller's side: requests that wait, and the questions about those that wait long."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._prefix = secrets.token_hex(6)
        self._numbers = itertools.count()
        self._calls: dict[str, Call] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._asking: asyncio.Task[None] | None = None

    def new_name(self) -> str:
        return f"{self._prefix}.{next(self._numbers):x}"

    @asynccontextmanager
    async def watched(self, name: str, queue: str) -> AsyncIterator[Call]:
        """Wait for an answer inside; raises TimeoutError there, with `lost` set, when nobody is going to give one."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(None) as scope:
            call = self._calls[name] = Call(name, queue, loop.time(), scope)
            if self._timer is None:
                self._timer = loop.call_later(PERIOD_S, self._look)
            try:
                yield call
            finally:
                del self._calls[name]

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._asking is not None:
            self._asking.cancel()

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(PERIOD_S, self._look) if self._calls else None
        old = [call for call in self._calls.values() if loop.time() - call.since >= PERIOD_S]
        if old and self._client.is_connected and (self._asking is None or self._asking.done()):
            self._asking = loop.create_task(self._ask_about(old), name="who works on it")

    async def _ask_about(self, calls: list[Call]) -> None:
        queues: dict[str, list[Call]] = {}
        for call in calls:
            queues.setdefault(call.queue, []).append(call)
        try:
            await asyncio.gather(*(self._ask(queue, some) for queue, some in queues.items()))
        except (nats.errors.Error, OSError) as error:
            log.debug("nobody could be asked who works on what: %s", error)

    async def _ask(self, queue: str, calls: list[Call]) -> None:
        for first in range(0, len(calls), NAMES_PER_QUESTION):
            some = calls[first : first + NAMES_PER_QUESTION]
            unknown = await self._not_in_work(queue, [call.name for call in some])
            for call in some:
                call.noes = call.noes + 1 if call.name in unknown else 0
                if call.noes >= NOES and call.name in self._calls:
                    log.info("%s has died over call %s", queue, call.name)
                    call.lose(asyncio.get_running_loop().time())

    async def _not_in_work(self, queue: str, names: Iterable[str]) -> set[str]:
        """Those that every copy which answers denies; none of them when no copy answers."""
        loop = asyncio.get_running_loop()
        missing = set(names)
        answered = False
        inbox = self._client.new_inbox()
        subscription = await self._client.subscribe(inbox)
        try:
            await self._client.publish(working_subject(queue), orjson.dumps(sorted(missing)), reply=inbox)
            until = loop.time() + ANSWER_S
            while missing and (left := until - loop.time()) > 0:
                message = await subscription.next_msg(timeout=left)
                answered = True
                if not message.data:  # "no responders": there is no copy at all
                    break
                missing.difference_update(orjson.loads(message.data))
        except TimeoutError:  # all copies that answer have answered
            pass
        finally:
            await subscription.unsubscribe()
        return missing if answered else set()
