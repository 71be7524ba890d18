"""Hosts: what may be listened on, who may use it, and TLS with its two directions."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import stat
import subprocess
from pathlib import Path

import pytest

from services.api.bootstrap import allows_insecure_tcp, listeners_of, tls_of
from services.api.server import EdgeServer, TlsSettings, open_listener
from services.api.tls import TlsProtocol
from shared.config import EngineConfig
from shared.errors import Conflict, InvalidArgument, Unavailable


def config(**values):
    return EngineConfig.checked({name.replace("_", "-"): value for name, value in values.items()})


def test_the_unix_socket_is_for_its_group_and_a_stale_one_is_replaced(tmp_path):
    path = tmp_path / "d.sock"
    for _ in range(2):
        listener = open_listener(f"unix://{path}", tls=None, allow_insecure=False)
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o660
        with pytest.raises(Conflict, match="another engine answers there"):
            open_listener(f"unix://{path}", tls=None, allow_insecure=False)
        listener.socket.close()


def test_a_group_that_does_not_exist_is_an_error_and_leaves_no_socket(tmp_path):
    path = tmp_path / "d.sock"
    with pytest.raises(InvalidArgument, match="group no-such-group not found"):
        open_listener(f"unix://{path}", tls=None, allow_insecure=False, group="no-such-group")
    assert not path.exists()
    listener = open_listener(f"unix://{path}", tls=None, allow_insecure=False, group=str(os.getgid()))
    assert os.stat(path).st_gid == os.getgid()
    listener.socket.close()


@pytest.mark.parametrize(
    "host",
    ["/run/x.sock", "fd://3", "tcp://[::1", *(f"tcp://127.0.0.1:{port}" for port in ("port", 99999, -1))],
)
def test_hosts_that_are_none(host):
    with pytest.raises(InvalidArgument):
        open_listener(host, tls=None, allow_insecure=True)


def test_tcp_without_client_verification_must_be_asked_for():
    host = "tcp://127.0.0.1:0"
    with pytest.raises(InvalidArgument, match=r"without client verification.*--no-tlsverify"):
        listeners_of(config(hosts=[host]), {})
    assert not allows_insecure_tcp(config(hosts=[host]))
    (listener,) = listeners_of(config(hosts=[host], tlsverify=False), {})
    assert listener.socket.getsockname()[0] == "127.0.0.1"
    listener.socket.close()


def test_what_is_in_the_way_is_an_error(tmp_path):
    first = open_listener("tcp://127.0.0.1:0", tls=None, allow_insecure=True)
    port = first.socket.getsockname()[1]
    with pytest.raises(Conflict, match="the address is in use"):
        open_listener(f"tcp://127.0.0.1:{port}", tls=None, allow_insecure=True)
    first.socket.close()
    (tmp_path / "d.sock").mkdir()
    with pytest.raises(Unavailable, match=r"cannot listen on .*: Is a directory"):
        open_listener(f"unix://{tmp_path}/d.sock", tls=None, allow_insecure=False)


def test_an_inherited_socket_is_used(tmp_path):
    path = str(tmp_path / "d.sock")
    bound = socket.socket(socket.AF_UNIX)
    bound.bind(path)
    bound.listen()
    (listener,) = listeners_of(config(hosts=[f"unix://{path}"]), {f"unix://{path}": bound.detach()})
    assert listener.socket.getsockname() == path
    assert listener.path == ""  # its maker removes it
    listener.socket.close()


def test_tls_settings_name_what_is_missing():
    with pytest.raises(InvalidArgument, match="tlskey"):
        tls_of(config(tlsverify=True, tlscert="c"))
    with pytest.raises(InvalidArgument, match="tlscacert"):
        tls_of(config(tlsverify=True, tlscert="c", tlskey="k"))
    with pytest.raises(InvalidArgument, match=r"missing\.pem"):
        TlsSettings("missing.pem", "missing.pem").context()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    directory: Path = tmp_path_factory.mktemp("tls")

    def openssl(*words):
        subprocess.run(["openssl", *words], cwd=directory, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl("req", "-x509", *key, "-keyout", "ca-key.pem", "-out", "ca.pem", "-days", "2", "-subj", "/CN=ca")
    for name in ("server", "client"):
        openssl("req", *key, "-keyout", f"{name}-key.pem", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        (directory / "ext").write_text("subjectAltName=IP:127.0.0.1\n")
        signing = ("-CA", "ca.pem", "-CAkey", "ca-key.pem", "-CAcreateserial", "-days", "2", "-extfile", "ext")
        openssl("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem", *signing)
    return directory


def client_context(certificates, *, with_certificate=True):
    context = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
    if with_certificate:
        context.load_cert_chain(certificates / "client.pem", certificates / "client-key.pem")
    return context


@pytest.fixture
async def tls_edge(certificates, edge):
    settings = TlsSettings(
        str(certificates / "server.pem"), str(certificates / "server-key.pem"), str(certificates / "ca.pem"), True
    )
    server = EdgeServer(edge.app)
    listener = open_listener("tcp://127.0.0.1:0", tls=settings, allow_insecure=False)
    await server.listen(listener)
    edge.port = listener.socket.getsockname()[1]
    edge.server = server
    yield edge
    await server.close()


async def test_a_verified_client_is_the_actor(tls_edge, certificates):
    reader, writer = await asyncio.open_connection("127.0.0.1", tls_edge.port, ssl=client_context(certificates))
    writer.write(tls_edge.client.head("GET", "/containers/json"))
    assert b"503" in await asyncio.wait_for(reader.readline(), 5)
    assert tls_edge.bus.contexts[0].actor == "tls:client"
    writer.close()


async def test_a_client_without_a_certificate_gets_nowhere(tls_edge, certificates):
    context = client_context(certificates, with_certificate=False)

    async def ping():
        reader, writer = await asyncio.open_connection("127.0.0.1", tls_edge.port, ssl=context)
        writer.write(tls_edge.client.head("GET", "/_ping"))
        await asyncio.wait_for(reader.readuntil(b"OK"), 5)

    with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
        await ping()
    assert tls_edge.bus.requests == []


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS"])
async def test_who_speaks_http_to_a_tls_port_is_told(tls_edge, method):
    reader, writer = await asyncio.open_connection("127.0.0.1", tls_edge.port)
    writer.write(tls_edge.client.head(method, "/_ping"))
    text = await asyncio.wait_for(reader.read(), 5)
    assert text == b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"
    writer.close()


async def test_what_is_neither_tls_nor_http_gets_an_alert(tls_edge):
    reader, writer = await asyncio.open_connection("127.0.0.1", tls_edge.port)
    writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
    assert not (await asyncio.wait_for(reader.read(), 5)).startswith(b"HTTP")
    writer.close()


async def test_new_files_are_for_new_connections_and_bad_ones_change_nothing(tls_edge, certificates):
    """The client's own certificate as the server's: only the name tells them apart."""

    async def who_answers():
        _, writer = await asyncio.open_connection("127.0.0.1", tls_edge.port, ssl=client_context(certificates))
        subject = dict(pair for (pair,) in writer.get_extra_info("peercert")["subject"])
        writer.close()
        return subject["commonName"]

    assert await who_answers() == "server"
    ca = str(certificates / "ca.pem")
    with pytest.raises(InvalidArgument, match=r"missing\.pem"):
        tls_edge.server.use_tls(TlsSettings("missing.pem", "missing.pem", ca, True))
    with pytest.raises(InvalidArgument, match="cannot be turned off"):
        tls_edge.server.use_tls(None)
    assert await who_answers() == "server"
    tls_edge.server.use_tls(
        TlsSettings(str(certificates / "client.pem"), str(certificates / "client-key.pem"), ca, True)
    )
    assert await who_answers() == "client"


class Echo(asyncio.Protocol):
    """Says everything back after the other side has ended its direction."""

    def connection_made(self, transport):
        self.transport, self.data = transport, b""

    def data_received(self, data):
        self.data += data

    def eof_received(self):
        self.transport.write(self.data)
        self.transport.close()
        return True


async def test_each_direction_of_tls_ends_on_its_own(certificates):
    settings = TlsSettings(str(certificates / "server.pem"), str(certificates / "server-key.pem"))
    context = settings.context()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: TlsProtocol(context, Echo()), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    sent = b"x" * 1_000_000

    def client():
        """A client that sends its close_notify and reads on, as Go's CloseWrite does."""
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = client_context(certificates, with_certificate=False).wrap_bio(
            incoming, outgoing, server_hostname="127.0.0.1"
        )
        with socket.create_connection(("127.0.0.1", port)) as sock:
            sock.settimeout(5)

            def until_done(step):
                while True:
                    try:
                        return step()
                    except ssl.SSLWantReadError:
                        sock.sendall(outgoing.read())
                        incoming.write(sock.recv(65536))

            until_done(tls.do_handshake)
            tls.write(sent)
            try:
                tls.unwrap()
            except ssl.SSLWantReadError:
                sock.sendall(outgoing.read())
            received = b""
            while data := sock.recv(65536):
                incoming.write(data)
                received += data
            return len(received)

    # After its close_notify Python's client reads no more plain text; the amount shows that all of it came.
    assert await asyncio.to_thread(client) > len(sent)
    server.close()
    await server.wait_closed()
