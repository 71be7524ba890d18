"""Byte streams over a bus in memory: the suite, and random chunkings, slow readers and lost frames."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.bus import streams
from shared.bus.streams import ByteStream, StreamBroken, StreamRef
from shared.errors import DavitError, NotFound
from shared.testing.bus import MemoryHub
from tests.suites import streams as suite


@asynccontextmanager
async def pair(hub: MemoryHub | None = None, *, window: int | None = None) -> AsyncIterator[suite.Pair]:
    hub = hub or MemoryHub()
    left = await streams.offer(hub.connect())
    if window is not None:
        left._window = window
    right = ByteStream(hub.connect(), left.ref.id, offered=False, window_bytes=window or streams.WINDOW_BYTES)
    await right._open()
    try:
        yield left, right
    finally:
        await left.aclose()
        await right.aclose()


@pytest.mark.parametrize("check", suite.SUITE, ids=lambda check: check.__name__)
async def test_suite(check: object) -> None:
    await check(pair)  # type: ignore[operator]


async def test_a_dead_peer_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "HEARTBEAT_S", 0.05)
    monkeypatch.setattr(streams, "DEAD_AFTER_S", 0.3)
    hub = MemoryHub()

    def silence() -> None:
        hub.drop = lambda subject, data: True

    await suite.a_dead_peer_is_noticed(lambda: pair(hub), silence)


async def test_an_offer_nobody_accepts_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "HEARTBEAT_S", 0.02)
    monkeypatch.setattr(streams, "ACCEPT_WITHIN_S", 0.1)
    stream = await streams.offer(MemoryHub().connect())
    with pytest.raises(StreamBroken, match="nobody accepted"):
        await stream.read()
    await stream.aclose()


async def test_an_end_before_anybody_listens_waits_for_the_acceptor() -> None:
    """A body of no bytes ends at once, before the request that names the stream has arrived."""
    hub = MemoryHub()
    empty, failed = await streams.offer(hub.connect()), await streams.offer(hub.connect())
    await empty.close_write()
    await failed.fail(NotFound("gone"))
    one, other = [await streams.accept(hub.connect(), stream.ref) for stream in (empty, failed)]
    assert await asyncio.wait_for(one.read(), 2) == b""
    with pytest.raises(NotFound, match="gone"):
        await asyncio.wait_for(other.read(), 2)
    await one.write(b"answer")
    await one.close_write()
    assert (await empty.read(), await empty.read()) == (b"answer", b"")
    for stream in (empty, failed, one, other):
        await stream.aclose()


async def test_a_quiet_stream_stays_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "HEARTBEAT_S", 0.02)
    monkeypatch.setattr(streams, "DEAD_AFTER_S", 0.1)
    async with pair() as (left, right):
        await asyncio.sleep(0.4)
        await left.write(b"still here")
        assert await right.read() == b"still here"


async def test_a_second_acceptor_breaks_the_stream() -> None:
    hub = MemoryHub()
    async with pair(hub) as (left, _right):
        intruder = await streams.accept(hub.connect(), StreamRef(id=left.ref.id))
        with pytest.raises(DavitError):
            await asyncio.wait_for(left.read(), 2)
        await intruder.aclose()


pieces = st.lists(st.integers(0, 40_000), max_size=12)


@settings(max_examples=60, deadline=None)
@given(pieces=pieces, back=pieces, window=st.sampled_from([1, 7, 4096, 65_536]), pauses=st.lists(st.booleans()))
def test_any_chunking_arrives_whole(pieces: list[int], back: list[int], window: int, pauses: list[bool]) -> None:
    """Whatever is written, in whatever pieces, through whatever window, at whatever reading speed."""
    if window < 4096:
        pieces, back = [size % 300 for size in pieces], [size % 300 for size in back]

    async def send(stream: ByteStream, sizes: list[int]) -> bytes:
        data = [bytes([number % 256]) * size for number, size in enumerate(sizes)]
        for piece in data:
            await stream.write(piece)
        await stream.close_write()
        return b"".join(data)

    async def receive(stream: ByteStream) -> bytes:
        received, turns = bytearray(), iter(pauses)
        while chunk := await stream.read():
            received += chunk
            if next(turns, False):
                await asyncio.sleep(0.001)
        return bytes(received)

    async def scenario() -> None:
        async with pair(window=window) as (left, right):
            sent, sent_back, received, received_back = await asyncio.gather(
                send(left, pieces), send(right, back), receive(right), receive(left)
            )
            assert received == sent
            assert received_back == sent_back

    asyncio.run(asyncio.wait_for(scenario(), 30))


@settings(max_examples=40, deadline=None)
@given(lost=st.integers(0, 60), sizes=st.lists(st.integers(1, 3000), min_size=1, max_size=30))
def test_a_lost_frame_is_never_silent(lost: int, sizes: list[int]) -> None:
    """Drop one frame of the writer's direction: the reader gets a prefix and an error, or everything."""
    data = b"".join(bytes([number % 256]) * size for number, size in enumerate(sizes))

    async def scenario() -> None:
        hub = MemoryHub()
        async with pair(hub) as (left, right):
            count = 0

            def drop(subject: str, _frame: bytes) -> bool:
                nonlocal count
                if not subject.endswith("acceptor"):
                    return False
                count += 1
                return count == lost + 1

            hub.drop = drop

            async def send() -> None:
                try:
                    for number, size in enumerate(sizes):
                        await left.write(bytes([number % 256]) * size)
                    await left.aclose()
                except DavitError:
                    return

            sending = asyncio.create_task(send())
            received = bytearray()
            try:
                async with asyncio.timeout(3):
                    async for chunk in right:
                        received += chunk
            except DavitError:
                assert data.startswith(bytes(received))
            else:
                assert bytes(received) == data
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)

    heartbeat = streams.HEARTBEAT_S
    streams.HEARTBEAT_S = 0.02
    try:
        asyncio.run(scenario())
    finally:
        streams.HEARTBEAT_S = heartbeat
