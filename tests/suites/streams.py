"""What any transport of byte streams must do. Functions that take a pair factory; no tests of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import pytest

from shared.bus.streams import CHUNK_BYTES, ByteStream, StreamBroken, StreamCancelled
from shared.errors import Internal, NotFound

Pair = tuple[ByteStream, ByteStream]
MakePair = Callable[[], AbstractAsyncContextManager[Pair]]


async def read_all(stream: ByteStream) -> bytes:
    return b"".join([chunk async for chunk in stream])


async def bytes_arrive_in_order(make: MakePair) -> None:
    async with make() as (left, right):
        pieces = [bytes([n % 251]) * (n * 977 % 70_000) for n in range(100)]

        async def send() -> None:
            for piece in pieces:
                await left.write(piece)
            await left.close_write()

        _, received = await asyncio.gather(send(), read_all(right))
        assert received == b"".join(pieces)


async def both_directions_at_once(make: MakePair) -> None:
    async with make() as (left, right):

        async def talk(stream: ByteStream, data: bytes) -> bytes:
            async def send() -> None:
                await stream.write(data)
                await stream.close_write()

            return (await asyncio.gather(send(), read_all(stream)))[1]

        big, bigger = b"l" * 9_000_000, b"r" * 11_000_000
        assert list(await asyncio.gather(talk(left, big), talk(right, bigger))) == [bigger, big]


async def chunks_are_bounded(make: MakePair) -> None:
    async with make() as (left, right):
        sending = asyncio.create_task(left.write(b"x" * (3 * CHUNK_BYTES + 1)))
        sizes: list[int] = []
        while sum(sizes) < 3 * CHUNK_BYTES + 1:
            sizes.append(len(await right.read()))
        assert max(sizes) <= CHUNK_BYTES
        await sending


async def a_slow_reader_stops_the_writer(make: MakePair) -> None:
    async with make() as (left, right):
        sent = 0

        async def send() -> None:
            nonlocal sent
            while True:
                await left.write(b"x" * 100_000)
                sent += 100_000

        sending = asyncio.create_task(send())
        await asyncio.sleep(0.5)
        stopped_at = sent
        await asyncio.sleep(0.3)
        assert sent == stopped_at < 10_000_000
        for _ in range(60):
            await right.read()
        await asyncio.sleep(0.2)
        assert sent > stopped_at
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


async def half_close_leaves_the_other_half(make: MakePair) -> None:
    async with make() as (left, right):
        await left.write(b"question")
        await left.close_write()
        assert await read_all(right) == b"question"
        assert await right.read() == b""
        await right.write(b"answer")
        await right.close_write()
        assert await read_all(left) == b"answer"
        with pytest.raises(Internal):
            await left.write(b"more")


async def cancel_reaches_the_other_side(make: MakePair) -> None:
    async with make() as (left, right):
        await left.write(b"dropped")
        await left.cancel("not interested")
        with pytest.raises(StreamCancelled, match="not interested"):
            await read_all(right)
        with pytest.raises(StreamCancelled):
            await right.write(b"x")


async def cancel_wakes_a_blocked_writer(make: MakePair) -> None:
    async with make() as (left, right):
        sending = asyncio.create_task(left.write(b"x" * 50_000_000))
        await asyncio.sleep(0.2)
        await right.cancel("enough")
        with pytest.raises(StreamCancelled, match="enough"):
            await asyncio.wait_for(sending, 5)


async def an_error_comes_after_the_data(make: MakePair) -> None:
    async with make() as (left, right):
        await left.write(b"so far")
        await left.fail(NotFound("no such file", path="/x"))
        assert await right.read() == b"so far"
        with pytest.raises(NotFound, match="no such file") as caught:
            await right.read()
        assert caught.value.detail == {"path": "/x"}


async def closing_ends_what_was_written(make: MakePair) -> None:
    async with make() as (left, right):
        await left.write(b"all of it")
        await left.aclose()
        assert await read_all(right) == b"all of it"
        with pytest.raises(StreamCancelled):
            await right.write(b"x" * 10_000_000)


async def leaving_by_an_exception_cancels(make: MakePair) -> None:
    async with make() as (left, right):
        with pytest.raises(LookupError):
            async with left:
                raise LookupError("oops")
        with pytest.raises(StreamCancelled, match="oops"):
            await right.read()


async def a_cancelled_read_loses_nothing(make: MakePair) -> None:
    async with make() as (left, right):
        data = bytes(range(256)) * 4000

        async def send() -> None:
            for start in range(0, len(data), 1000):
                await left.write(data[start : start + 1000])
                await asyncio.sleep(0)
            await left.close_write()

        sending = asyncio.create_task(send())
        received = bytearray()
        while True:
            try:
                chunk = await asyncio.wait_for(right.read(), 0.0005)
            except TimeoutError:
                continue
            if not chunk:
                break
            received += chunk
        await sending
        assert bytes(received) == data


async def a_dead_peer_is_noticed(make: MakePair, silence: Callable[[], None]) -> None:
    """With short heartbeats set, and the transport made silent by `silence`."""
    async with make() as (left, right):
        await left.write(b"hello")
        assert await right.read() == b"hello"
        silence()
        with pytest.raises(StreamBroken):
            await asyncio.wait_for(right.read(), 5)
        with pytest.raises(StreamBroken):
            await left.write(b"x" * 50_000_000)


SUITE = (
    bytes_arrive_in_order,
    both_directions_at_once,
    chunks_are_bounded,
    a_slow_reader_stops_the_writer,
    half_close_leaves_the_other_half,
    cancel_reaches_the_other_side,
    cancel_wakes_a_blocked_writer,
    an_error_comes_after_the_data,
    closing_ends_what_was_written,
    leaving_by_an_exception_cancels,
    a_cancelled_read_loses_nothing,
)
