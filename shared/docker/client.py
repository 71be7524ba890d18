"""The engine's API, for the commands that davit has itself: over its unix socket, or TCP with or without TLS.

Source: Docker's CLI reference, "Environment variables" (DOCKER_TLS_VERIFY, DOCKER_CERT_PATH).
"""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Iterator
from typing import IO, Any

from shared.errors import Conflict, DavitError, InvalidArgument, NotFound, Unavailable

_BY_STATUS: dict[int, type[DavitError]] = {400: InvalidArgument, 404: NotFound, 409: Conflict}


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_s: float | None) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        try:
            self.sock.connect(self._path)
        except OSError as error:
            raise Unavailable(f"the engine does not answer on {self._path}: is it running? (davit up)") from error


class EngineClient:
    """Requests to one engine.

    Args:
        host: ``unix://PATH`` or ``tcp://HOST:PORT``; TLS as DOCKER_TLS_VERIFY and DOCKER_CERT_PATH say.

    Raises:
        InvalidArgument: The host is of another kind.
        DavitError: From every method: what the engine answered, by its status; Unavailable when it does not.
    """

    def __init__(self, host: str) -> None:
        scheme, separator, self._address = host.partition("://")
        if not separator or scheme not in ("unix", "tcp") or not self._address:
            raise InvalidArgument(f"{host} is no engine's address: unix:///PATH or tcp://HOST:PORT", field="host")
        self._host, self._scheme = host, scheme

    def get(self, target: str, *, timeout_s: float | None = 60) -> Any:
        return self._json("GET", target, None, timeout_s)

    def post(self, target: str, body: Any = None, *, timeout_s: float | None = 60) -> Any:
        return self._json("POST", target, body, timeout_s)

    def delete(self, target: str, *, timeout_s: float | None = 60) -> Any:
        return self._json("DELETE", target, None, timeout_s)

    def stream(self, method: str, target: str, body: IO[bytes] | None = None) -> Iterator[bytes]:
        """The answer's bytes as they come; a file as body is sent in chunks."""
        connection = self._connection(None)
        try:
            headers = {"Content-Type": "application/x-tar"} if body is not None else {}
            response = self._send(connection, method, target, body, headers)
            while chunk := response.read1(65536):
                yield chunk
        finally:
            connection.close()

    def lines(self, method: str, target: str, body: IO[bytes] | None = None) -> Iterator[Any]:
        """The JSON objects of an answer that has one per line, as they come."""
        rest = b""
        for chunk in self.stream(method, target, body):
            *whole, rest = (rest + chunk).split(b"\n")
            yield from (json.loads(line) for line in whole if line.strip())
        if rest.strip():
            yield json.loads(rest)

    def _connection(self, timeout_s: float | None) -> http.client.HTTPConnection:
        if self._scheme == "unix":
            return _UnixConnection(self._address, timeout_s)
        name, _, port = self._address.rstrip("/").rpartition(":")
        if not port.isdigit():
            raise InvalidArgument(f"{self._host} has no port: tcp://HOST:PORT", field="host")
        name = name.strip("[]") or "localhost"
        verify, certificates = os.environ.get("DOCKER_TLS_VERIFY"), os.environ.get("DOCKER_CERT_PATH")
        if not verify:
            return http.client.HTTPConnection(name, int(port), timeout=timeout_s)
        import ssl

        directory = certificates or os.path.expanduser("~/.docker")
        try:
            context = ssl.create_default_context(cafile=f"{directory}/ca.pem")
            context.load_cert_chain(f"{directory}/cert.pem", f"{directory}/key.pem")
        except OSError as error:
            raise InvalidArgument(f"DOCKER_CERT_PATH: {directory} has no usable ca.pem, cert.pem, key.pem") from error
        return http.client.HTTPSConnection(name, int(port), timeout=timeout_s, context=context)

    def _json(self, method: str, target: str, body: Any, timeout_s: float | None) -> Any:
        connection = self._connection(timeout_s)
        try:
            data = None if body is None else json.dumps(body)
            headers = {} if body is None else {"Content-Type": "application/json"}
            text = self._send(connection, method, target, data, headers).read()
            return json.loads(text) if text.strip() else None
        finally:
            connection.close()

    def _send(
        self, connection: http.client.HTTPConnection, method: str, target: str, body: Any, headers: dict[str, str]
    ) -> http.client.HTTPResponse:
        try:
            connection.request(method, target, body, headers, encode_chunked=hasattr(body, "read"))
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(f"the engine on {self._host} did not answer: {error or type(error).__name__}") from error
        if response.status >= 400:
            raise _refused(response)
        return response


def _refused(response: http.client.HTTPResponse) -> DavitError:
    text = response.read().decode(errors="replace")
    try:
        message = json.loads(text)["message"]
    except (ValueError, KeyError, TypeError):
        message = text or response.reason
    return _BY_STATUS.get(response.status, Unavailable)(str(message))
