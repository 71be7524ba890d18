"""Listening for registry clients."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from shared.errors import InvalidArgument, Unavailable

BACKLOG = 512


class _Server(uvicorn.Server):
    """A server inside a process that has its own signal handling."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def listen(address: str) -> socket.socket:
    """A bound socket for ``host:port``; several copies of the service may share it.

    Raises:
        InvalidArgument: It is no address.
        Unavailable: It is in use.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise InvalidArgument(
            f"configuration key registry-listen: {address!r} is not host:port", field="registry-listen"
        )
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host, int(port)))
    except OSError as error:
        listener.close()
        raise Unavailable(f"the registry cannot listen on {address}: {error.strerror}") from error
    return listener


def check_files(certificate: str, key: str) -> None:
    """Raises InvalidArgument, naming the configuration key, when one is not there."""
    for name, path in (("registry-tls-cert", certificate), ("registry-tls-key", key)):
        if path and not Path(path).is_file():
            raise InvalidArgument(f"configuration key {name}: {path} does not exist", field=name)


async def serve(app: Any, listener: socket.socket, certificate: str, key: str) -> None:
    """Serve until cancelled.

    Args:
        certificate, key: Files; empty for plain HTTP.
    """
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        http="httptools",
        ws="none",
        backlog=BACKLOG,
        server_header=False,
        ssl_certfile=certificate or None,
        ssl_keyfile=key or None,
        timeout_graceful_shutdown=2,
    )
    # Clients that try TLS first on a plain port would each leave a warning.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    server = _Server(config)
    serving = asyncio.create_task(server.serve([listener]), name="registry server")
    try:
        await asyncio.shield(serving)
    except asyncio.CancelledError:
        server.should_exit = True
        await serving
        raise
    finally:
        listener.close()
