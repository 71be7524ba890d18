"""Ports of this machine that lead to ports of nodes: a process that takes connections here and makes them there.

``forward.py FILE NS_DIRECTORY``: FILE is JSON, a list of ``{"host", "port", "node", "to"}``. Run as a script with the
standard library only.

Source: setns(2): a socket stays in the network namespace in which it was made.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import socket
import sys
from typing import Any

CLONE_NEWNET = 0x40000000
CHUNK = 1 << 16
libc = ctypes.CDLL(None, use_errno=True)


def socket_in(namespace: str) -> socket.socket:
    """A TCP socket of another network namespace. Raises OSError when the node is off."""
    home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        there = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if libc.setns(there, CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        finally:
            os.close(there)
        try:
            made = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        finally:
            libc.setns(home, CLONE_NEWNET)
    finally:
        os.close(home)
    return made


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()


def server_of(namespace: str, port: int) -> Any:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there = socket_in(namespace)
            await asyncio.get_running_loop().sock_connect(there, ("127.0.0.1", port))
            other_reader, other_writer = await asyncio.open_connection(sock=there)
        except OSError:
            writer.close()
            return
        try:
            await asyncio.gather(pump(reader, other_writer), pump(other_reader, writer))
        finally:
            for one in (writer, other_writer):
                one.close()

    return serve


async def main(file: str, directory: str) -> None:
    with open(file) as text:
        ports = json.load(text)
    servers = []
    for port in ports:
        serve = server_of(os.path.join(directory, f"{port['node']}.net"), port["to"])
        servers.append(await asyncio.start_server(serve, port["host"], port["port"]))
    os.write(1, b"ready\n")
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    with open("/proc/self/comm", "w") as comm:
        comm.write("davit-lab ports")
    try:
        asyncio.run(main(sys.argv[1], sys.argv[2]))
    except OSError as error:
        os.write(1, f"error {error}\n".encode())
        sys.exit(1)
