"""Listeners, and the HTTP server on them.

uvicorn's protocol does the HTTP; its `Server` is not used, because one process listens on several hosts with and
without TLS, and signals and shutdown belong to `shared.service`.
"""

from __future__ import annotations

import asyncio
import errno
import grp
import logging
import os
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from uvicorn.config import Config
from uvicorn.server import ServerState

from services.api.hijack import HijackProtocol
from services.api.tls import TlsProtocol
from shared.errors import Conflict, InvalidArgument, Unavailable

if TYPE_CHECKING:
    from starlette.types import ASGIApp

log = logging.getLogger(__name__)

SOCKET_GROUP = "docker"
SOCKET_MODE = 0o660
BACKLOG = 1024
# Longer than clients keep idle connections, so that a reused one is not closed under a request.
KEEP_ALIVE_S = 120
SHUTDOWN_GRACE_S = 1.0
MAX_PORT = 65535
DEFAULT_PORT = 2375
DEFAULT_TLS_PORT = 2376


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """Paths of PEM files. verify: whether clients need a certificate signed by `ca`."""

    certificate: str = ""
    key: str = ""
    ca: str = ""
    verify: bool = False

    def context(self) -> ssl.SSLContext:
        """Raises InvalidArgument naming the file that cannot be used."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self.certificate, self.key)
            if self.verify:
                context.load_verify_locations(self.ca)
                context.verify_mode = ssl.CERT_REQUIRED
        except (OSError, ssl.SSLError) as error:
            names = ", ".join(name for name in (self.certificate, self.key, self.ca) if name)
            raise InvalidArgument(f"cannot use the TLS files {names}: {error}", field="tlscert") from error
        return context


@dataclass(slots=True)
class Listener:
    """A bound socket; `path` is removed when the listener ends."""

    host: str
    socket: socket.socket
    tls: ssl.SSLContext | None = None
    path: str = ""


def open_listener(host: str, *, tls: TlsSettings | None, allow_insecure: bool, group: str = "") -> Listener:
    """Bind one of the configured hosts: ``unix:///path`` or ``tcp://address:port``.

    Raises:
        InvalidArgument: Not an address, or TCP without client verification while that is not allowed.
        Conflict: The port is in use, or another engine listens on the socket.
    """
    scheme, separator, address = host.partition("://")
    if not separator:
        raise InvalidArgument(f"invalid host {host}: it needs a scheme, unix:// or tcp://", field="hosts")
    if scheme == "unix":
        return Listener(host, _unix_socket(address, group), path=address)
    if scheme == "tcp":
        verified = tls is not None and tls.verify
        if not verified and not allow_insecure:
            raise InvalidArgument(
                f"{host}: a TCP listener without client verification gives root to whoever can reach it; "
                "set tlsverify, or say that it is not wanted (tlsverify false, --no-tlsverify)",
                field="hosts",
            )
        context = tls.context() if tls is not None else None
        return Listener(host, _tcp_socket(host, address, DEFAULT_TLS_PORT if context else DEFAULT_PORT), context)
    raise InvalidArgument(f"invalid host {host}: unknown scheme {scheme}", field="hosts")


def inherited_listener(host: str, descriptor: int, *, tls: TlsSettings | None) -> Listener:
    """A listener on a socket that the supervisor bound; two copies of the edge may share one."""
    sock = socket.socket(fileno=descriptor)
    sock.setblocking(False)
    secured = tls.context() if tls is not None and sock.family != socket.AF_UNIX else None
    return Listener(host, sock, secured)


def _unix_socket(path: str, group: str) -> socket.socket:
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    previous = os.umask(0o177)  # never open to others, not even between bind and chmod
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        sock.bind(path)
    except OSError as error:
        sock.close()
        raise _cannot_listen(f"unix://{path}", error) from error
    finally:
        os.umask(previous)
    try:
        os.chown(path, -1, _socket_gid(path, group))
        os.chmod(path, SOCKET_MODE)
    except OSError as error:
        sock.close()
        Path(path).unlink(missing_ok=True)
        raise _cannot_listen(f"unix://{path}", error) from error
    except InvalidArgument:
        sock.close()
        Path(path).unlink(missing_ok=True)
        raise
    sock.listen(BACKLOG)
    sock.setblocking(False)
    return sock


def _socket_gid(path: str, group: str) -> int:
    """Who may use the socket beside root: the group configured, by name or number, else ``docker`` if there is one.

    Raises:
        InvalidArgument: The group that was configured does not exist.
    """
    if group.isdecimal():
        return int(group)
    try:
        return grp.getgrnam(group or SOCKET_GROUP).gr_gid
    except KeyError as error:
        if group not in ("", SOCKET_GROUP):
            raise InvalidArgument(f"cannot listen on unix://{path}: group {group} not found", field="group") from error
        if group:
            log.warning("could not change group of %s to %s: group %s not found", path, group, group)
        return -1


def _remove_stale(path: str) -> None:
    """Remove the socket of an engine that is gone. Raises Conflict when one still answers."""
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        probe.settimeout(1)
        probe.connect(path)
    except FileNotFoundError:
        return
    except ConnectionRefusedError:  # nobody listens there, or it is no socket
        try:
            Path(path).unlink(missing_ok=True)
        except OSError as error:
            raise _cannot_listen(f"unix://{path}", error) from error
        return
    except OSError as error:
        raise _cannot_listen(f"unix://{path}", error) from error
    finally:
        probe.close()
    raise Conflict(f"cannot listen on unix://{path}: another engine answers there")


def _tcp_socket(host: str, address: str, default_port: int) -> socket.socket:
    name, _, port_text = address.rpartition(":") if ":" in address.rpartition("]")[2] else (address, "", "")
    try:
        port = int(port_text or default_port)
        if not 0 <= port <= MAX_PORT:  # the resolver would take the lower 16 bits
            raise ValueError(f"there is no port {port}")
        family, kind, _, _, target = socket.getaddrinfo(
            name.strip("[]") or "127.0.0.1", port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (ValueError, socket.gaierror) as error:
        raise InvalidArgument(f"invalid host {host}: {error}", field="hosts") from error
    sock = socket.socket(family, kind)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind(target)
    except OSError as error:
        sock.close()
        raise _cannot_listen(host, error) from error
    sock.listen(BACKLOG)
    sock.setblocking(False)
    return sock


def _cannot_listen(host: str, error: OSError) -> Conflict | Unavailable:
    if error.errno == errno.EADDRINUSE:
        return Conflict(f"cannot listen on {host}: the address is in use")
    return Unavailable(f"cannot listen on {host}: {error.strerror or error}")


class EdgeServer:
    """Serves one ASGI application on any number of listeners."""

    def __init__(self, app: ASGIApp) -> None:
        self._config = Config(
            app,
            interface="asgi3",
            # Named, so that uvicorn does not import what it would choose from.
            http=HijackProtocol,
            loop="none",
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
        )
        self._config.load()
        self._state = ServerState()
        self._servers: list[asyncio.Server] = []
        self._listeners: list[Listener] = []

    async def listen(self, listener: Listener) -> None:
        loop = asyncio.get_running_loop()

        def protocol() -> asyncio.Protocol:
            http = HijackProtocol(config=self._config, server_state=self._state, app_state={}, _loop=loop)
            return TlsProtocol(listener.tls, http) if listener.tls is not None else http

        if listener.socket.family == socket.AF_UNIX:
            server = await loop.create_unix_server(protocol, sock=listener.socket, backlog=BACKLOG)
        else:
            server = await loop.create_server(protocol, sock=listener.socket, backlog=BACKLOG)
        self._servers.append(server)
        self._listeners.append(listener)
        log.info("listening on %s", listener.host)

    def use_tls(self, settings: TlsSettings | None) -> None:
        """Use these files for new connections of the listeners that have TLS; the others stay as they are.

        Raises:
            InvalidArgument: They cannot be used; nothing has changed.
        """
        secured = [listener for listener in self._listeners if listener.tls is not None]
        if not secured:
            return
        if settings is None:
            raise InvalidArgument("TLS cannot be turned off without a restart", field="tls")
        context = settings.context()
        for listener in secured:
            listener.tls = context

    async def close(self) -> None:
        """Take no new connections, let requests finish for a moment, then end the rest."""
        for server in self._servers:
            server.close()
        for connection in list(self._state.connections):
            connection.shutdown()
        tasks = set(self._state.tasks)
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=SHUTDOWN_GRACE_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        for connection in list(self._state.connections):
            connection.transport.close()
        for listener in self._listeners:
            if listener.path:
                Path(listener.path).unlink(missing_ok=True)
