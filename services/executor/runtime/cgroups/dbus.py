"""As much of a D-Bus client as it takes to ask systemd for a scope: calls, their replies, and one kind of signal.

Source: D-Bus specification, "Message Protocol", "Type System", "Authentication Protocol".
"""

from __future__ import annotations

import os
import socket
import struct

from services.executor.runtime.errors import NotSupported, RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

SYSTEM_BUS = "/run/dbus/system_bus_socket"
_CALL, _RETURN, _ERROR, _SIGNAL = 1, 2, 3, 4
_PATH, _INTERFACE, _MEMBER, _ERROR_NAME, _REPLY_SERIAL, _DESTINATION, _SIGNATURE = 1, 2, 3, 4, 5, 6, 8
_FIELD_TYPES = {_PATH: "o", _REPLY_SERIAL: "u", _SIGNATURE: "g"}
_ALIGNMENT = {"y": 1, "b": 4, "i": 4, "u": 4, "x": 8, "t": 8, "d": 8, "s": 4, "o": 4, "g": 1, "a": 4, "v": 1, "(": 8}
_ALIGNMENT["{"] = 8
_NUMBERS = {"y": "<B", "b": "<I", "i": "<i", "u": "<I", "x": "<q", "t": "<Q", "d": "<d"}
_TIMEOUT_S = 30


class DBusFailure(RuntimeFailure):
    """The other side answered with an error; `name` is D-Bus's."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{name}: {text}", step="cgroups")
        self.name = name


class Message:
    """What arrived."""

    __slots__ = ("body", "fields", "kind")

    def __init__(self, kind: int, fields: dict[int, Any], body: list[Any]) -> None:
        self.kind = kind
        self.fields = fields
        self.body = body


class Connection:
    """To the system bus, as the user that the process is.

    Raises:
        NotSupported: there is no bus.
    """

    def __init__(self, path: str = SYSTEM_BUS) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(_TIMEOUT_S)
        self._serial = 0
        self._signals: list[Message] = []
        try:
            self._socket.connect(path)
            self._authenticate()
        except OSError as error:
            self._socket.close()
            raise NotSupported("linux.cgroupsPath", f"the system bus {path} cannot be reached: {error}") from error
        self.call("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "Hello")

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _authenticate(self) -> None:
        self._socket.sendall(b"\0AUTH EXTERNAL " + str(os.geteuid()).encode().hex().encode() + b"\r\n")
        answer = b""
        while not answer.endswith(b"\r\n"):
            chunk = self._socket.recv(512)
            if not chunk:
                raise ConnectionError("the bus hung up")
            answer += chunk
        if not answer.startswith(b"OK"):
            raise ConnectionError(f"the bus refused us: {answer!r}")
        self._socket.sendall(b"BEGIN\r\n")

    def call(
        self, destination: str, path: str, interface: str, member: str, signature: str = "", *arguments: Any
    ) -> list[Any]:
        """Call a method and answer what it returns.

        Raises:
            DBusFailure: it returned an error.
        """
        self._serial += 1
        serial = self._serial
        fields = {_PATH: path, _INTERFACE: interface, _MEMBER: member, _DESTINATION: destination}
        body = bytearray()
        if signature:
            fields[_SIGNATURE] = signature
            for kind, argument in zip(split(signature), arguments, strict=True):
                marshal(body, kind, argument)
        header = bytearray(struct.pack("<cBBBII", b"l", _CALL, 0, 1, len(body), serial))
        marshal(
            header, "a(yv)", [(code, (_FIELD_TYPES.get(code, "s"), value)) for code, value in sorted(fields.items())]
        )
        _pad(header, 8)
        self._socket.sendall(bytes(header + body))
        while True:
            message = self._receive()
            if message.kind == _SIGNAL:
                self._signals.append(message)
            elif message.fields.get(_REPLY_SERIAL) == serial:
                if message.kind == _ERROR:
                    text = str(message.body[0]) if message.body else ""
                    raise DBusFailure(str(message.fields.get(_ERROR_NAME)), text)
                return message.body

    def signal(self, member: str) -> list[Any]:
        """The body of the next signal of that name that was subscribed to."""
        while True:
            message = self._signals.pop(0) if self._signals else self._receive()
            if message.kind == _SIGNAL and message.fields.get(_MEMBER) == member:
                return message.body

    def _receive(self) -> Message:
        start = self._exactly(16)
        order = "<" if start[:1] == b"l" else ">"
        if order == ">":
            raise RuntimeFailure("the bus speaks big-endian", step="cgroups")
        kind = start[1]
        body_size, _, fields_size = struct.unpack_from("<III", start, 4)
        rest = self._exactly((fields_size + 7) // 8 * 8 + body_size)
        header = Reader(start + rest)
        header.position = 12
        fields = {code: value[1] for code, value in header.value("a(yv)")}
        reader = Reader(rest[len(rest) - body_size :])
        body = [reader.value(each) for each in split(fields.get(_SIGNATURE, ""))]
        return Message(kind, fields, body)

    def _exactly(self, size: int) -> bytes:
        found = bytearray()
        while len(found) < size:
            try:
                chunk = self._socket.recv(size - len(found))
            except TimeoutError:
                raise RuntimeFailure(f"the system bus did not answer in {_TIMEOUT_S} s", step="cgroups") from None
            if not chunk:
                raise RuntimeFailure("the system bus hung up", step="cgroups")
            found += chunk
        return bytes(found)


def split(signature: str) -> Sequence[str]:
    """The complete types that a signature consists of: "sa(sv)u" is s, a(sv) and u."""
    types = []
    position = 0
    while position < len(signature):
        end = _end(signature, position)
        types.append(signature[position:end])
        position = end
    return types


def _end(signature: str, position: int) -> int:
    if signature[position] == "a":
        return _end(signature, position + 1)
    if signature[position] not in "({":
        return position + 1
    depth = 0
    for index in range(position, len(signature)):
        depth += {"(": 1, "{": 1, ")": -1, "}": -1}.get(signature[index], 0)
        if depth == 0:
            return index + 1
    raise ValueError(f"unbalanced signature {signature!r}")


def _pad(out: bytearray, alignment: int) -> None:
    out += bytes(-len(out) % alignment)


def marshal(out: bytearray, kind: str, value: Any) -> None:
    """Append a value. A variant is a pair of its type and its value, an array a list, a struct a tuple."""
    first = kind[0]
    _pad(out, _ALIGNMENT[first])
    if first in _NUMBERS:
        out += struct.pack(_NUMBERS[first], int(value) if first != "d" else value)
    elif first in "so":
        raw = str(value).encode()
        out += struct.pack("<I", len(raw)) + raw + b"\0"
    elif first == "g":
        raw = str(value).encode()
        out += bytes([len(raw)]) + raw + b"\0"
    elif first == "v":
        marshal(out, "g", value[0])
        marshal(out, value[0], value[1])
    elif first == "a":
        size_at = len(out)
        out += b"\0\0\0\0"
        _pad(out, _ALIGNMENT[kind[1]])
        start = len(out)
        for item in value:
            marshal(out, kind[1:], item)
        struct.pack_into("<I", out, size_at, len(out) - start)
    else:
        for each, item in zip(split(kind[1:-1]), value, strict=True):
            marshal(out, each, item)


class Reader:
    """Takes values off the front of a message."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    def value(self, kind: str) -> Any:
        """The next value, which is of that type."""
        first = kind[0]
        self.position += -self.position % _ALIGNMENT[first]
        if first in _NUMBERS:
            return self._number(_NUMBERS[first])
        if first in "so":
            return self._text(self._number("<I"))
        if first == "g":
            return self._text(self._number("<B"))
        if first == "v":
            inner = self.value("g")
            return inner, self.value(inner)
        if first == "a":
            size = self._number("<I")
            self.position += -self.position % _ALIGNMENT[kind[1]]
            end = self.position + size
            items = []
            while self.position < end:
                items.append(self.value(kind[1:]))
            return items
        return tuple(self.value(each) for each in split(kind[1:-1]))

    def _number(self, form: str) -> Any:
        (value,) = struct.unpack_from(form, self.data, self.position)
        self.position += struct.calcsize(form)
        return value

    def _text(self, size: int) -> str:
        text = self.data[self.position : self.position + size].decode()
        self.position += size + 1
        return text
