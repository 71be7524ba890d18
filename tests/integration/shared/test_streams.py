"""Byte streams over a real server: the suite, a killed server, and how fast they are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from shared.bus import streams
from shared.bus.client import Bus, Contract, Empty
from shared.bus.streams import StreamBroken, StreamRef
from tests.lab.nats import NatsServer
from tests.suites import streams as suite

HAND_OVER = Contract("davit.test.stream.handover", StreamRef, Empty, deadline_s=5)


@asynccontextmanager
async def pair_on(server: NatsServer) -> AsyncIterator[suite.Pair]:
    """A stream handed over in a request, between two connections."""
    left_bus, right_bus = await Bus.connect(server.url, name="left"), await Bus.connect(server.url, name="right")
    accepted: asyncio.Future[streams.ByteStream] = asyncio.get_running_loop().create_future()

    async def take(ref: StreamRef) -> Empty:
        accepted.set_result(await streams.accept(right_bus, ref))
        return Empty()

    await right_bus.serve(HAND_OVER, take)
    await right_bus.nats.flush()
    left = await streams.offer(left_bus)
    await left_bus.request(HAND_OVER, left.ref)
    right = await accepted
    try:
        yield left, right
    finally:
        await left.aclose()
        await right.aclose()
        await left_bus.close()
        await right_bus.close()


@pytest.mark.parametrize("check", suite.SUITE, ids=lambda check: check.__name__)
async def test_suite(check: object, nats_server: NatsServer) -> None:
    await check(lambda: pair_on(nats_server))  # type: ignore[operator]


async def test_a_peer_behind_a_killed_server_is_noticed(own_nats: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "HEARTBEAT_S", 0.2)
    monkeypatch.setattr(streams, "DEAD_AFTER_S", 1.0)
    await suite.a_dead_peer_is_noticed(lambda: pair_on(own_nats), own_nats.kill)


async def test_bytes_lost_with_the_server_are_never_silent(
    own_nats: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server dies under load and comes back: the reader gets a prefix and an error, or everything."""
    monkeypatch.setattr(streams, "HEARTBEAT_S", 0.2)
    monkeypatch.setattr(streams, "DEAD_AFTER_S", 3.0)
    data = b"".join(number.to_bytes(4, "big") * 25_000 for number in range(300))
    received = bytearray()
    async with pair_on(own_nats) as (left, right):

        async def send() -> None:
            for start in range(0, len(data), 100_000):
                await left.write(data[start : start + 100_000])
                await asyncio.sleep(0.001)
            await left.close_write()

        async def receive() -> None:
            async for chunk in right:
                received.extend(chunk)

        sending, receiving = asyncio.create_task(send()), asyncio.create_task(receive())
        await asyncio.sleep(0.1)
        own_nats.kill()
        own_nats.start()
        results = await asyncio.wait_for(asyncio.gather(sending, receiving, return_exceptions=True), 20)
        assert data.startswith(bytes(received))
        if results[1] is None:
            assert bytes(received) == data
        else:
            assert isinstance(results[1], StreamBroken)
