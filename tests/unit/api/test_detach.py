"""Detach keys in all the pieces they may come in."""

from __future__ import annotations

import asyncio

import pytest

from services.api.detach import DetachKeys, parse_keys
from shared.bus import streams
from shared.contracts import containers as contracts
from shared.contracts.containers import AttachInfo
from shared.errors import InvalidArgument


def test_names_of_keys():
    assert parse_keys("ctrl-p,ctrl-q") == b"\x10\x11"
    assert parse_keys("a,ctrl-@,ctrl-[,DEL,ctrl-_") == b"a\x00\x1b\x7f\x1f"
    for text in ("", "ctrl-A", "ctrl-", "enter", "a,,b"):
        with pytest.raises(InvalidArgument, match="detach keys"):
            parse_keys(text)


@pytest.mark.parametrize("pieces", [[b"x\x10\x11y"], [b"x\x10", b"\x11y"], [b"x", b"\x10", b"\x11"]])
def test_the_sequence_is_found_in_pieces(pieces):
    keys = DetachKeys("ctrl-p,ctrl-q")
    assert b"".join(keys.feed(piece) for piece in pieces) == b"x"
    assert keys.seen


def test_what_only_begins_like_it_passes():
    keys = DetachKeys("ctrl-p,ctrl-q")
    assert keys.feed(b"a\x10b\x11") == b"a\x10b\x11"
    assert keys.feed(b"\x10") == b""
    assert keys.feed(b"\x10c") == b"\x10\x10c"
    assert not keys.seen


async def test_detaching_ends_the_connection_and_cancels_the_stream(edge):
    ended = asyncio.get_running_loop().create_future()

    async def attach(request):
        stream = await streams.accept(edge.bus, request.stream)

        async def work():
            try:
                while await stream.read():
                    pass
            except Exception as error:
                ended.set_result(error)

        edge.task = asyncio.create_task(work())
        return AttachInfo(tty=True)

    edge.bus.answer(contracts.ATTACH, attach)
    reader, writer = await edge.client.open()
    target = "/containers/x/attach?stream=1&stdin=1&stdout=1&detachKeys=ctrl-a"
    writer.write(edge.client.head("POST", target, {"Connection": "Upgrade", "Upgrade": "tcp"}))
    await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    writer.write(b"ls\x01")
    assert await asyncio.wait_for(reader.read(), 5) == b""
    assert isinstance(await asyncio.wait_for(ended, 5), streams.StreamCancelled)
    writer.close()


async def test_detach_keys_that_do_not_exist_are_refused(edge):
    reply = await edge.client.request("POST", "/containers/x/attach?detachKeys=enter")
    assert reply.status == 400
