"""DNS messages, as far as a resolver needs them that answers a few names and forwards the rest. Pure.

Source: RFC 1035, section 4; RFC 3596 (AAAA).
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Sequence
from dataclasses import dataclass

A, PTR, AAAA, ANY = 1, 12, 28, 255
IN = 1
NOERROR, FORMAT_ERROR, SERVER_FAILURE, NAME_ERROR = 0, 1, 2, 3
QR, TC, RD, RA = 0x8000, 0x0200, 0x0100, 0x0080
OPCODE_MASK = 0x7800

HEADER = struct.Struct(">HHHHHH")
# A name in an answer that repeats the question's: a pointer to offset 12.
QUESTION_NAME = b"\xc0\x0c"
MAX_NAME_BYTES = 255


class MalformedQuery(ValueError):
    """The bytes are no DNS query with one question."""


@dataclass(frozen=True, slots=True)
class Query:
    """A query's question. name: lower case, without the last dot; question: its bytes as they came."""

    id: int
    flags: int
    name: str
    kind: int
    question: bytes


def parse_query(data: bytes) -> Query:
    """Raises MalformedQuery."""
    if len(data) < HEADER.size:
        raise MalformedQuery("shorter than a header")
    identifier, flags, questions, *_ = HEADER.unpack_from(data)
    if flags & QR or flags & OPCODE_MASK or questions != 1:
        raise MalformedQuery("not a standard query with one question")
    labels: list[str] = []
    offset = HEADER.size
    while True:
        if offset >= len(data) or offset - HEADER.size > MAX_NAME_BYTES:
            raise MalformedQuery("a name that does not end")
        length = data[offset]
        offset += 1
        if length == 0:
            break
        if length > 63:
            raise MalformedQuery("a compressed name in a question")
        labels.append(data[offset : offset + length].decode("latin-1").lower())
        offset += length
    if offset + 4 > len(data):
        raise MalformedQuery("a question without type and class")
    kind, _ = struct.unpack_from(">HH", data, offset)
    return Query(identifier, flags, ".".join(labels), kind, data[HEADER.size : offset + 4])


def answer_addresses(query: Query, addresses: Sequence[str], ttl_s: int) -> bytes:
    """An answer with these addresses; none is the answer for a name that has no address of the family."""
    records = b""
    for address in addresses:
        packed = ipaddress.ip_address(address).packed
        kind = A if len(packed) == 4 else AAAA
        records += QUESTION_NAME + struct.pack(">HHIH", kind, IN, ttl_s, len(packed)) + packed
    return _reply(query, NOERROR, len(addresses)) + records


def answer_name(query: Query, name: str, ttl_s: int) -> bytes:
    encoded = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".") if label) + b"\0"
    return _reply(query, NOERROR, 1) + QUESTION_NAME + struct.pack(">HHIH", PTR, IN, ttl_s, len(encoded)) + encoded


def failure(query: Query, code: int) -> bytes:
    return _reply(query, code, 0)


def format_error(data: bytes) -> bytes:
    """The answer to bytes that `parse_query` refused; empty when there is not even an id to answer."""
    if len(data) < 2:
        return b""
    return HEADER.pack(struct.unpack_from(">H", data)[0], QR | FORMAT_ERROR, 0, 0, 0, 0)


def reverse_address(name: str) -> str:
    """The address that a PTR question is about; empty when it is none."""
    labels = name.split(".")
    try:
        if name.endswith(".in-addr.arpa"):
            return str(ipaddress.IPv4Address(".".join(reversed(labels[:-2]))))
        if name.endswith(".ip6.arpa"):
            digits = "".join(reversed(labels[:-2]))
            return str(ipaddress.IPv6Address(bytes.fromhex(digits)))
    except ValueError:
        return ""
    return ""


def answers(reply: bytes, query: bytes) -> bool:
    """Whether a reply belongs to a query: same id, and the same question where it has one."""
    if len(reply) < HEADER.size or reply[:2] != query[:2] or not reply[2] & 0x80:
        return False
    try:
        question = parse_query(query).question
    except MalformedQuery:
        return True
    return reply[HEADER.size : HEADER.size + len(question)].lower() == question.lower() or reply[4:6] == b"\0\0"


def _reply(query: Query, code: int, count: int) -> bytes:
    return HEADER.pack(query.id, QR | RA | (query.flags & RD) | code, 1, count, 0, 0) + query.question
