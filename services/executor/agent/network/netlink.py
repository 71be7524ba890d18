"""A netlink socket: batches of requests out, acknowledgements and dumps in.

The six messages of a container's start are encoded here by hand: importing pyroute2 takes 0.47 s and each of its
requests about a millisecond, where the kernel's own work for one is tens of microseconds.

Source: netlink(7), rtnetlink(7); include/uapi/linux/netlink.h of Linux 6.1.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12

NLMSG_ERROR = 2
NLMSG_DONE = 3
NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_DUMP = 0x300

SOL_NETLINK = 270
NETLINK_CAP_ACK = 10
NETLINK_EXT_ACK = 11
NETLINK_ADD_MEMBERSHIP = 1
NLMSGERR_ATTR_MSG = 1
NLM_F_ACK_TLVS = 0x200
NLA_F_NESTED = 0x8000
NLA_TYPE_MASK = 0x3FFF

HEADER = struct.Struct("=IHHII")
ATTRIBUTE = struct.Struct("=HH")
RECEIVE_BYTES = 256 * 1024
# A kernel that does not answer a netlink request within this is wedged; an error is better than a lost thread.
REPLY_TIMEOUT_S = 10


class NetlinkError(OSError):
    """The kernel refused a request; `errno` says why and the text is the kernel's own explanation, if it gave one."""


@dataclass(frozen=True, slots=True)
class Message:
    """One request: its type, its flags beyond REQUEST and ACK, and its payload.

    Attributes:
        tolerate: Errno values that mean the wanted state is already there.
    """

    kind: int
    payload: bytes
    flags: int = 0
    tolerate: tuple[int, ...] = ()


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    length = 4 + len(value)
    return ATTRIBUTE.pack(length, kind) + value + b"\0" * (-length % 4)


def nested(kind: int, *attributes: bytes) -> bytes:
    return attribute(kind | NLA_F_NESTED, b"".join(attributes))


def text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def u8(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=B", value))


def u32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=I", value))


def attributes(data: bytes | memoryview) -> dict[int, bytes]:
    """Attributes by kind; of a repeated kind the last."""
    found: dict[int, bytes] = {}
    offset = 0
    while offset + 4 <= len(data):
        length, kind = ATTRIBUTE.unpack_from(data, offset)
        if length < 4:
            break
        found[kind & NLA_TYPE_MASK] = bytes(data[offset + 4 : offset + length])
        offset += (length + 3) & ~3
    return found


class Netlink:
    """A netlink socket of the network namespace that the calling thread is in when it is made.

    Not for two threads at once. Keeps working in its namespace wherever its thread goes afterwards. With `groups` it
    only listens to what the kernel announces to them (`drain`).
    """

    def __init__(self, protocol: int = NETLINK_ROUTE, *, groups: Sequence[int] = ()) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._sequence = 0
        try:
            self._socket.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
            self._socket.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)
            # Python waits before each call on a socket with a timeout, whatever its flags: a listener has none.
            self._socket.settimeout(0 if groups else REPLY_TIMEOUT_S)
            self._socket.bind((0, 0))
            for group in groups:
                self._socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
        except OSError:
            self._socket.close()
            raise

    def close(self) -> None:
        self._socket.close()

    def run(self, messages: Sequence[Message]) -> None:
        """Send all in one go and wait until each is acknowledged. The kernel works them off in order.

        Raises:
            NetlinkError: The first refusal; the messages after it were carried out all the same.
        """
        if not messages:
            return
        first = self._sequence + 1
        packet = bytearray()
        for message in messages:
            packet += self._encode(message, NLM_F_ACK)
        self._socket.send(packet)
        failure: NetlinkError | None = None
        waiting = len(messages)
        while waiting:
            for kind, flags, sequence, payload in self._receive():
                if kind != NLMSG_ERROR or sequence < first:
                    continue
                waiting -= 1
                error = _refusal(flags, payload)
                if error and failure is None and error.errno not in messages[sequence - first].tolerate:
                    failure = error
        if failure:
            raise failure

    def ask(self, message: Message, *, dump: bool = False) -> list[tuple[int, bytes]]:
        """Send one request and return the (type, payload) of every message in the answer.

        Raises:
            NetlinkError: ENODEV, ENOENT and others, as the kernel answers.
        """
        self._socket.send(self._encode(message, NLM_F_DUMP if dump else NLM_F_ACK))
        answers: list[tuple[int, bytes]] = []
        while True:
            for kind, flags, sequence, payload in self._receive():
                if sequence != self._sequence:
                    continue
                if kind == NLMSG_ERROR:
                    error = _refusal(flags, payload)
                    if error:
                        raise error
                    return answers
                if kind == NLMSG_DONE:
                    return answers
                answers.append((kind, payload))

    def drain(self) -> list[tuple[int, bytes]] | None:
        """What the joined groups announced since the last call, without waiting; None when some was lost."""
        announced: list[tuple[int, bytes]] = []
        while True:
            try:
                data = self._socket.recv(RECEIVE_BYTES)
            except BlockingIOError:
                return announced
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    return None
                raise
            announced += [(kind, payload) for kind, _, _, payload in _messages(data)]

    def _encode(self, message: Message, flags: int) -> bytes:
        self._sequence += 1
        length = HEADER.size + len(message.payload)
        header = HEADER.pack(length, message.kind, NLM_F_REQUEST | flags | message.flags, self._sequence, 0)
        return header + message.payload + b"\0" * (-length % 4)

    def _receive(self) -> Iterator[tuple[int, int, int, bytes]]:
        try:
            data = self._socket.recv(RECEIVE_BYTES)
        except TimeoutError as error:
            raise NetlinkError(errno.ETIMEDOUT, "the kernel does not answer a netlink request") from error
        return _messages(data)


def _messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    offset = 0
    while offset + HEADER.size <= len(data):
        length, kind, flags, sequence, _ = HEADER.unpack_from(data, offset)
        if length < HEADER.size:
            return
        yield kind, flags, sequence, data[offset + HEADER.size : offset + length]
        offset += (length + 3) & ~3


def _refusal(flags: int, payload: bytes) -> NetlinkError | None:
    (number,) = struct.unpack_from("=i", payload)
    if number == 0:
        return None
    words = ""
    if flags & NLM_F_ACK_TLVS:
        words = attributes(payload[4 + HEADER.size :]).get(NLMSGERR_ATTR_MSG, b"").rstrip(b"\0").decode()
    reason = os.strerror(-number)
    return NetlinkError(-number, f"{reason} ({words})" if words else reason)
