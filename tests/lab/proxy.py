"""A web proxy that listens inside a network namespace and fetches from outside of it.

A socket belongs to the namespace in which it was made, so one process can have a foot in each: nothing in the
namespace gets a route to anywhere, only what asks the proxy gets files.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.lab.netns import NetworkNamespace

TIMEOUT_S = 60
# Hop-by-hop fields are about one connection (RFC 9110, 7.6.1), and what urllib decides itself.
_OWN = frozenset({"connection", "host", "keep-alive", "proxy-connection", "transfer-encoding", "te", "upgrade"})


def listening_socket(namespace: NetworkNamespace) -> socket.socket:
    """A socket that listens on a free port of the namespace's loopback."""
    made: list[socket.socket] = []

    def make() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        with open(f"/run/netns/{namespace.name}") as there:
            if libc.setns(there.fileno(), 0) != 0:  # of this thread only, which ends here
                raise OSError(ctypes.get_errno(), "setns")
        made.append(socket.create_server(("127.0.0.1", 0)))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    return made[0]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = TIMEOUT_S

    def do_GET(self) -> None:
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _OWN}
        try:
            answer = urllib.request.urlopen(urllib.request.Request(self.path, headers=headers), timeout=TIMEOUT_S)
        except urllib.error.HTTPError as error:
            answer = error
        except OSError as error:
            self.send_error(502, str(error))
            return
        with answer:
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                if name.lower() not in _OWN:
                    self.send_header(name, value)
            if "content-length" not in answer.headers:
                self.send_header("connection", "close")
                self.close_connection = True
            self.end_headers()
            shutil.copyfileobj(answer, self.wfile)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is no news."""


@contextmanager
def web_proxy(namespace: NetworkNamespace) -> Iterator[str]:
    """The proxy's URL, as seen from inside the namespace."""
    listener = listening_socket(namespace)
    address = listener.getsockname()
    server = _Server(address, _Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = listener
    thread = threading.Thread(target=server.serve_forever, name=f"proxy {os.getpid()}")
    thread.start()
    try:
        yield f"http://127.0.0.1:{address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
