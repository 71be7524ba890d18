"""Raw connections: attach, exec and WebSocket over a real socket."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from wsproto import ConnectionType
from wsproto.connection import Connection
from wsproto.events import BytesMessage, Ping, TextMessage

from shared.bus import streams
from shared.bus.client import EMPTY
from shared.contracts import containers as contracts
from shared.contracts.containers import AttachInfo, Exec
from shared.errors import DavitError, InvalidArgument, NotFound

UPGRADE = {"Connection": "Upgrade", "Upgrade": "tcp"}
ATTACH = "/v1.41/containers/x/attach?stream=1&stdin=1&stdout=1"


class Peer:
    """The service's end of an attach: says what it got when stdin ended, then ends."""

    def __init__(self, edge, tty=False):
        self.edge, self.tty = edge, tty
        self.got = asyncio.get_running_loop().create_future()
        edge.bus.answer(contracts.ATTACH, self.attach)

    async def attach(self, request):
        self.stream = await streams.accept(self.edge.bus, request.stream)
        self.task = asyncio.create_task(self.work())
        return AttachInfo(tty=self.tty)

    async def work(self):
        got = b"".join([chunk async for chunk in self.stream])
        self.got.set_result(got)
        await self.stream.write(b"end:" + got)
        await self.stream.close_write()
        await self.stream.aclose()


async def read_head(reader):
    return (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)).decode()


async def test_upgrade_half_close_and_end(edge):
    peer = Peer(edge)
    reader, writer = await edge.client.open()
    writer.write(edge.client.head("POST", ATTACH, UPGRADE))
    head = await read_head(reader)
    assert head.startswith("HTTP/1.1 101 UPGRADED\r\n")
    assert "Upgrade: tcp" in head
    assert "application/vnd.docker.raw-stream" in head
    writer.write(b"hello ")
    await asyncio.sleep(0.05)
    writer.write(b"world")
    writer.write_eof()
    assert await asyncio.wait_for(reader.read(), 5) == b"end:hello world"
    assert await peer.got == b"hello world"
    writer.close()


async def test_bytes_sent_with_the_request_are_not_lost(edge):
    Peer(edge)
    reader, writer = await edge.client.open()
    writer.write(edge.client.head("POST", ATTACH, UPGRADE) + b"early")
    writer.write_eof()
    await read_head(reader)
    assert await asyncio.wait_for(reader.read(), 5) == b"end:early"
    writer.close()


async def test_old_clients_get_200_and_keep_their_early_bytes(edge):
    Peer(edge)
    reader, writer = await edge.client.open()
    writer.write(edge.client.head("POST", ATTACH) + b"GET / HTTP/1.1 looking bytes")
    head = await read_head(reader)
    assert head.startswith("HTTP/1.1 200 OK\r\n")
    assert "Upgrade" not in head
    writer.write_eof()
    assert await asyncio.wait_for(reader.read(), 5) == b"end:GET / HTTP/1.1 looking bytes"
    writer.close()


async def test_large_transfers_pass_whole_both_ways(edge):
    Peer(edge)
    data = bytes(range(256)) * 16384
    reader, writer = await edge.client.open()
    writer.write(edge.client.head("POST", ATTACH, UPGRADE))
    await read_head(reader)
    writer.write(data)
    writer.write_eof()
    assert await asyncio.wait_for(reader.read(), 20) == b"end:" + data
    writer.close()


async def test_streams_are_named_multiplexed_from_1_42_on(edge):
    for version, tty, name in (("1.42", False, "multiplexed"), ("1.50", True, "raw"), ("1.41", False, "raw")):
        Peer(edge, tty=tty)
        reader, writer = await edge.client.open()
        writer.write(edge.client.head("POST", ATTACH.replace("1.41", version), UPGRADE))
        writer.write_eof()
        assert f"application/vnd.docker.{name}-stream" in await read_head(reader)
        await reader.read()
        writer.close()


async def test_an_error_before_the_hijack_is_plain_http(edge):
    edge.bus.answer(contracts.ATTACH, NotFound("No such container: x"))
    reply = await edge.client.request("POST", ATTACH, headers=UPGRADE)
    assert reply.status == 404
    assert b"No such container: x" in reply.body


async def test_a_client_that_leaves_cancels_the_stream(edge):
    cancelled = asyncio.get_running_loop().create_future()

    async def attach(request):
        stream = await streams.accept(edge.bus, request.stream)

        async def work():
            try:
                while True:
                    await stream.write(b"x" * 65536)
            except Exception as error:
                cancelled.set_result(error)

        edge.task = asyncio.create_task(work())
        return AttachInfo(tty=False)

    edge.bus.answer(contracts.ATTACH, attach)
    reader, writer = await edge.client.open()
    writer.write(edge.client.head("POST", ATTACH, UPGRADE))
    await read_head(reader)
    writer.transport.abort()
    assert isinstance(await asyncio.wait_for(cancelled, 5), streams.StreamCancelled)


EXEC = b'{"Detach":false,"Tty":false}'


@pytest.fixture
def edge_with_exec(edge):
    edge.bus.answer(contracts.EXEC_INSPECT, Exec(id="e1", container_id="c", cmd=["x"]))
    return edge


async def test_exec_has_a_body_and_an_upgrade(edge_with_exec):
    edge = edge_with_exec

    async def start(request):
        stream = await streams.accept(edge.bus, request.stream)

        async def work():
            got = b"".join([chunk async for chunk in stream])
            await stream.write(got.upper())
            await stream.close_write()
            await stream.aclose()

        edge.task = asyncio.create_task(work())
        return EMPTY

    edge.bus.answer(contracts.EXEC_START, start)
    reader, writer = await edge.client.open()
    headers = {**UPGRADE, "Content-Type": "application/json"}
    writer.write(edge.client.head("POST", "/exec/e1/start", headers, EXEC) + b"abc")
    writer.write_eof()
    await read_head(reader)
    assert await asyncio.wait_for(reader.read(), 5) == b"ABC"
    writer.close()


async def test_a_command_that_cannot_run_is_told_in_the_output(edge_with_exec):
    edge = edge_with_exec
    edge.bus.answer(contracts.EXEC_START, InvalidArgument("OCI runtime exec failed: executable file not found"))
    headers = {**UPGRADE, "Content-Type": "application/json"}
    reader, writer = await edge.client.open()
    writer.write(edge.client.head("POST", "/exec/e1/start", headers, EXEC))
    assert "101 UPGRADED" in await read_head(reader)
    data = await asyncio.wait_for(reader.read(), 5)
    text = b"OCI runtime exec failed: executable file not found\r\n"
    assert data == b"\x01\0\0\0" + len(text).to_bytes(4, "big") + text
    writer.close()


async def test_an_exec_that_does_not_exist_is_http(edge_with_exec):
    edge = edge_with_exec
    edge.bus.answer(contracts.EXEC_INSPECT, NotFound("No such exec instance: e1"))
    reply = await edge.client.request("POST", "/exec/e1/start", EXEC)
    assert reply.status == 404


WEBSOCKET = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
WS_ATTACH = "/containers/x/attach/ws?stream=1&stdin=1&stdout=1"


def echoing(edge, *, times):
    """A container whose process answers each piece of input with the same."""

    async def attach(request):
        stream = await streams.accept(edge.bus, request.stream)

        async def work():
            with contextlib.suppress(DavitError):  # the client may go first
                for _ in range(times):
                    got = await stream.read()
                    await stream.write(b"\x01\0\0\0" + len(got).to_bytes(4, "big") + got)
                await stream.close_write()
                await stream.aclose()

        edge.task = asyncio.create_task(work())
        return AttachInfo(tty=False)

    edge.bus.answer(contracts.ATTACH, attach)


async def connected(edge):
    """A WebSocket client, by the library's other half."""
    reader, writer = await edge.client.open()
    writer.write(edge.client.head("GET", WS_ATTACH, WEBSOCKET))
    head = await read_head(reader)
    assert "101 " in head
    assert "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head  # RFC 6455, section 1.3
    return reader, writer, Connection(ConnectionType.CLIENT)


async def test_attach_over_websocket(edge):
    echoing(edge, times=2)
    reader, writer, client = await connected(edge)
    writer.write(client.send(Ping(payload=b"p")) + client.send(BytesMessage(data=b"12345")))
    data = await asyncio.wait_for(reader.readexactly(3 + 7), 5)
    assert data == b"\x8a\x01p" + b"\x82\x0512345"
    writer.write(client.send(TextMessage(data="grün")))
    client.receive_data(await asyncio.wait_for(reader.read(), 5))
    message, close = client.events()
    assert (message.data, close.code) == ("grün".encode(), 1000)
    writer.close()


async def test_a_websocket_message_may_come_in_pieces_of_any_size(edge):
    echoing(edge, times=1)
    reader, writer, client = await connected(edge)
    text = client.send(BytesMessage(data=b"a" * 70_000))
    for at in range(0, len(text), 1000):
        writer.write(text[at : at + 1000])
        await writer.drain()
    client.receive_data(await asyncio.wait_for(reader.read(), 5))
    first = next(client.events())
    assert first.data
    assert set(first.data) == {ord("a")}
    writer.close()


@pytest.mark.parametrize("bad", [b"\x82\x05hello", b"\x83\x80abcd", b"\xf2\x80abcd"])
async def test_a_websocket_client_that_breaks_the_rules_is_told(edge, bad):
    echoing(edge, times=1)
    reader, writer, client = await connected(edge)
    writer.write(bad)  # not masked; an unknown opcode; reserved bits
    client.receive_data(await asyncio.wait_for(reader.read(), 5))
    (close,) = client.events()
    assert close.code == 1002
    writer.close()


async def test_what_is_no_websocket_handshake_is_refused(edge):
    reply = await edge.client.request("GET", WS_ATTACH)
    assert reply.status == 400


async def test_a_body_may_arrive_after_the_head(edge):
    edge.bus.answer(contracts.EXEC_INSPECT, NotFound("No such exec instance: e1"))
    for upgrade in ({}, UPGRADE):
        reader, writer = await edge.client.open()
        headers = {**upgrade, "Content-Type": "application/json", "Content-Length": str(len(EXEC))}
        writer.write(edge.client.head("POST", "/exec/e1/start", headers))
        await asyncio.sleep(0.02)
        writer.write(EXEC[:5])
        await asyncio.sleep(0.02)
        writer.write(EXEC[5:])
        assert "404" in await read_head(reader)
        writer.close()


async def test_an_exec_runs_once(edge):
    edge.bus.answer(contracts.EXEC_INSPECT, Exec(id="e1", container_id="c", cmd=["x"], exit_code=0))
    assert (await edge.client.request("POST", "/exec/e1/start", EXEC)).status == 409


async def test_the_head_leaves_before_the_process_starts(edge_with_exec):
    edge = edge_with_exec
    begin = asyncio.Event()

    async def start(request):
        await begin.wait()
        stream = await streams.accept(edge.bus, request.stream)
        await stream.write(b"now")
        await stream.aclose()
        return EMPTY

    edge.bus.answer(contracts.EXEC_START, start)
    reader, writer = await edge.client.open()
    writer.write(edge.client.head("POST", "/exec/e1/start", {**UPGRADE, "Content-Type": "application/json"}, EXEC))
    await read_head(reader)
    begin.set()
    assert await asyncio.wait_for(reader.read(), 5) == b"now"
    writer.close()


async def test_output_is_not_lost_to_a_client_that_still_sends(edge):
    async def attach(request):
        stream = await streams.accept(edge.bus, request.stream)
        await stream.write(b"last words")
        await stream.aclose()
        return AttachInfo(tty=False)

    edge.bus.answer(contracts.ATTACH, attach)
    reader, writer = await edge.client.open()
    writer.write(edge.client.head("POST", ATTACH, UPGRADE) + b"x" * 400_000)
    await read_head(reader)
    writer.write(b"x" * 400_000)
    assert await asyncio.wait_for(reader.read(), 5) == b"last words"
    writer.close()
