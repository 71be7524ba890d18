"""A client that costs next to nothing, so that what is measured is the engine."""

from __future__ import annotations

import socket
from pathlib import Path


class Wire:
    """One connection to an engine's unix socket."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(120)
        self._socket.connect(str(path))
        self._file = self._socket.makefile("rb", buffering=1 << 20)

    def ask(self, method: str, target: str, body: bytes = b"", *, expect: int = 200) -> bytes:
        """The body of the answer. Raises RuntimeError on another status than the expected one."""
        self._send(method, target, body)
        status = int(self._file.readline().split()[1])
        length, chunked = 0, False
        while line := self._file.readline().strip().lower():
            if line.startswith(b"content-length:"):
                length = int(line.split(b":")[1])
            chunked = chunked or line == b"transfer-encoding: chunked"
        answer = b"".join(self._chunks()) if chunked else self._file.read(length)
        if status != expect:
            raise RuntimeError(f"{method} {target}: {status} {answer[:300]!r}")
        return answer

    def until_closed(self, method: str, target: str, body: bytes) -> bytes:
        """The answer to what takes the connection over, head and all, until the engine closes it."""
        self._send(method, target, body)
        answer: bytes = self._file.read()
        return answer

    def _send(self, method: str, target: str, body: bytes) -> None:
        kind = "application/x-tar" if "/archive?" in target else "application/json"
        head = f"{method} {target} HTTP/1.1\r\nHost: docker\r\nContent-Length: {len(body)}\r\n"
        self._socket.sendall(f"{head}Content-Type: {kind}\r\n\r\n".encode())
        self._socket.sendall(body)

    def _chunks(self) -> list[bytes]:
        found = []
        while size := int(self._file.readline().split(b";")[0], 16):
            found.append(self._file.read(size))
            self._file.readline()
        self._file.readline()
        return found

    def close(self) -> None:
        self._file.close()
        self._socket.close()
