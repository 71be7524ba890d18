"""The JetStream stream `EVENTS`: making it, asking what it has of a service, and following it.

`follow` is what ``GET /events``, caches and audit consumers read from.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import nats.errors
import nats.js.errors
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DeliverPolicy,
    StreamInfo,
)

from shared.bus import jetstream
from shared.errors import NotFound, Unavailable
from shared.events.record import HEADER_SEQUENCE, HEADER_SERVICE, STREAM, SUBJECTS, DomainEvent

if TYPE_CHECKING:
    from nats.js import JetStreamContext

    from shared.bus.client import Bus

    PullSubscription = JetStreamContext.PullSubscription

log = logging.getLogger(__name__)

# Within this time a second append of the same message id changes nothing.
DUPLICATE_WINDOW_S = 120
LARGEST_STREAM_BYTES = 1 << 30
FETCH = 256
FETCH_TIMEOUT_S = 2.0
CONSUMER_FORGOTTEN_S = 30.0
RESUBSCRIBE_PAUSE_S = 0.2
_JS_ERRORS = (nats.errors.Error, nats.js.errors.Error, TimeoutError, OSError)


@dataclass(frozen=True, slots=True)
class Published:
    """last: The service's newest sequence number in the stream. stream_last: The stream's own last number."""

    last: int
    stream_last: int


async def ensure_stream(bus: Bus, retention_s: float) -> int:
    """Create the stream when it is missing; the number of its newest message.

    Raises:
        Unavailable: JetStream does not answer.
    """
    try:
        return await jetstream.last_number(bus, STREAM)
    except NotFound:
        log.info("creating the stream of events")
        return await jetstream.create_stream(
            bus,
            STREAM,
            [SUBJECTS],
            max_age_s=retention_s,
            max_bytes=LARGEST_STREAM_BYTES,
            duplicate_window_s=min(DUPLICATE_WINDOW_S, retention_s),
        )


async def find_published(bus: Bus, service: str, subjects: list[str]) -> Published:
    """What the stream has of a service: events are published in order, so the newest tells.

    Args:
        subjects: All subjects on which the service has published.

    Raises:
        Unavailable: JetStream does not answer.
    """
    last, at, shared = 0, 0, False
    for subject in subjects:
        found = await jetstream.newest_of(bus, STREAM, subject)
        if found is None:
            continue
        number, headers = found
        if headers.get(HEADER_SERVICE) != service:
            shared = True  # another service's newer event hides ours
        elif int(headers.get(HEADER_SEQUENCE, 0)) > last:
            last, at = int(headers[HEADER_SEQUENCE]), number
    try:
        stream_last = await jetstream.last_number(bus, STREAM)
        if shared:
            last = await _scan(bus, service, after=at, last=last)
    except (*_JS_ERRORS, NotFound) as error:
        raise Unavailable(f"the stream of events cannot be read: {error or type(error).__name__}") from error
    return Published(last=last, stream_last=stream_last)


async def _scan(bus: Bus, service: str, *, after: int, last: int) -> int:
    """Look through all messages behind a stream position for the service's newest."""
    config = ConsumerConfig(
        ack_policy=AckPolicy.NONE,
        deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
        opt_start_seq=after + 1,
        headers_only=True,
        mem_storage=True,
        inactive_threshold=CONSUMER_FORGOTTEN_S,
    )
    subscription = await bus.jetstream.pull_subscribe(SUBJECTS, stream=STREAM, config=config)
    try:
        pending = (await subscription.consumer_info()).num_pending or 0
        while pending:
            for message in await subscription.fetch(FETCH, timeout=FETCH_TIMEOUT_S):
                headers = message.headers or {}
                if headers.get(HEADER_SERVICE) == service:
                    last = max(last, int(headers.get(HEADER_SEQUENCE, 0)))
                pending = message.metadata.num_pending
    finally:
        await subscription.unsubscribe()
    return last


async def follow(
    bus: Bus, *, since_ns: int | None = None, subject: str = SUBJECTS, replay_only: bool = False
) -> AsyncGenerator[DomainEvent, None]:
    """Events as they happen, each once, in the order of their recording per service.

    It goes on by itself after the bus was away, and after the stream was lost and rebuilt. The bus may be away for
    long: it waits then, and nothing is skipped as long as the retention allows.

    Args:
        since_ns: First replay events that happened from this time on (nanoseconds since the epoch); None: only
            events from now on.
        subject: A filter such as ``davit.event.container.>``.
        replay_only: End when all that is recorded has been replayed.
    """
    follower = _Follower(bus, time.time_ns() if since_ns is None else since_ns, subject)
    while True:
        try:
            async with aclosing(follower.events(replay_only=replay_only)) as events:
                async for event in events:
                    yield event
            return
        except _JS_ERRORS as error:
            log.info("following events again after: %s", error or type(error).__name__)
        await asyncio.sleep(RESUBSCRIBE_PAUSE_S)


class _Follower:
    """Where a consumer of events is: in the stream, and per service."""

    def __init__(self, bus: Bus, since_ns: int, subject: str) -> None:
        self._jetstream = bus.jetstream
        self._since_ns = since_ns
        self._subject = subject
        self._next: int | None = None
        self._created: object = None
        self._seen: dict[str, int] = {}

    async def events(self, *, replay_only: bool) -> AsyncGenerator[DomainEvent, None]:
        consumer = await self._consumer()
        try:
            pending = (await consumer.consumer_info()).num_pending or 0
            while pending or not replay_only:
                try:
                    messages = await consumer.fetch(FETCH, timeout=FETCH_TIMEOUT_S)
                except nats.errors.TimeoutError:
                    await consumer.consumer_info()  # raises when a restart of the server lost it
                    await self._check_stream()
                    continue
                for message in messages:
                    pending = message.metadata.num_pending
                    self._next = message.metadata.sequence.stream + 1
                    event = DomainEvent.model_validate_json(message.data)
                    if self._is_new(event):
                        yield event
        finally:
            with contextlib.suppress(*_JS_ERRORS):
                await consumer.unsubscribe()

    def _is_new(self, event: DomainEvent) -> bool:
        if event.sequence <= self._seen.get(event.service, 0):
            return False
        self._seen[event.service] = event.sequence
        return event.time_ns >= self._since_ns

    async def _check_stream(self) -> None:
        """Raise when the stream is not the one that is being followed."""
        if self._is_another(await self._jetstream.stream_info(STREAM)):
            raise nats.js.errors.NotFoundError

    def _is_another(self, info: StreamInfo) -> bool:
        return info.created != self._created or (self._next or 1) > info.state.last_seq + 1

    async def _consumer(self) -> PullSubscription:
        info = await self._jetstream.stream_info(STREAM)
        lost = self._created is not None and self._is_another(info)
        self._created = info.created
        config = ConsumerConfig(ack_policy=AckPolicy.NONE, inactive_threshold=CONSUMER_FORGOTTEN_S, mem_storage=True)
        if lost:
            config.deliver_policy = DeliverPolicy.ALL  # what was seen before is skipped by its number
        elif self._next is not None:
            config.deliver_policy, config.opt_start_seq = DeliverPolicy.BY_START_SEQUENCE, self._next
        else:
            # An event is published after it happened, never before.
            config.deliver_policy = DeliverPolicy.BY_START_TIME
            config.opt_start_time = datetime.fromtimestamp(self._since_ns / 1e9, UTC)
        return await self._jetstream.pull_subscribe(self._subject, stream=STREAM, config=config)
