"""The few requests of JetStream's API that every service makes all the time, as the JSON they are.

nats-py's own objects for them cost each forked service some megabytes of memory that it no longer shares with the
others; for consumers, which few services have, nats-py is used.

Source: NATS, "JetStream wire API reference".
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import nats.errors
import orjson

from shared.errors import Conflict, NotFound, Unavailable

if TYPE_CHECKING:
    from shared.bus.client import Bus

TIMEOUT_S = 5.0
_NANOSECONDS = 1_000_000_000
_OPERATION = "KV-Operation"
_WRONG_LAST_SEQUENCE = (10071, 10164)


@dataclass(frozen=True, slots=True)
class Appended:
    """number: In the stream. duplicate: The server had a message of this id already, under this number."""

    number: int
    duplicate: bool


@dataclass(frozen=True, slots=True)
class Entry:
    """Of a key-value bucket."""

    revision: int
    value: bytes
    deleted: bool


async def last_number(bus: Bus, stream: str) -> int:
    """The number of a stream's newest message; 0 when there never was one. Raises NotFound, Unavailable."""
    info = await _ask(bus, f"STREAM.INFO.{stream}", None)
    return int(info["state"]["last_seq"])


async def create_stream(
    bus: Bus, stream: str, subjects: list[str], *, max_age_s: float, max_bytes: int, duplicate_window_s: float
) -> int:
    """Create a stream in files, or find it with this very configuration; `last_number` of it. Raises Unavailable."""
    configuration = {
        "name": stream,
        "subjects": subjects,
        "retention": "limits",
        "storage": "file",
        "max_age": int(max_age_s * _NANOSECONDS),
        "max_bytes": max_bytes,
        "max_consumers": -1,
        "max_msgs": -1,
        "max_msgs_per_subject": -1,
        "max_msg_size": -1,
        "discard": "old",
        "num_replicas": 1,
        "duplicate_window": int(duplicate_window_s * _NANOSECONDS),
        "allow_direct": True,
    }
    created = await _ask(bus, f"STREAM.CREATE.{stream}", configuration)
    return int(created["state"]["last_seq"])


async def create_bucket(bus: Bus, bucket: str, *, ttl_s: float) -> None:
    """Create a key-value bucket, in memory, whose entries expire, or find it. Raises Unavailable.

    A server keeps such a bucket while it runs. In files it would take nothing any more once its disk has been full.

    Source: NATS ADR-8, "JetStream based Key-Value Stores".
    """
    configuration = {
        "name": f"KV_{bucket}",
        "subjects": [f"$KV.{bucket}.>"],
        "storage": "memory",
        "discard": "new",
        "max_age": int(ttl_s * _NANOSECONDS),
        "duplicate_window": int(min(ttl_s, 120) * _NANOSECONDS),
        "max_msgs_per_subject": 1,
        "max_consumers": -1,
        "max_msgs": -1,
        "max_bytes": -1,
        "max_msg_size": -1,
        "num_replicas": 1,
        "allow_rollup_hdrs": True,
        "allow_direct": True,
        "deny_delete": True,
    }
    await _ask(bus, f"STREAM.CREATE.KV_{bucket}", configuration)


async def put(bus: Bus, bucket: str, key: str, value: bytes, *, last: int) -> int:
    """Write an entry if its newest revision is `last` (0: there is none); the new revision.

    Raises:
        Conflict: Its newest revision is another.
        NotFound: There is no such bucket.
        Unavailable: It was not acknowledged.
    """
    headers = {"Nats-Expected-Last-Subject-Sequence": str(last)}
    return (await append(bus, f"KV_{bucket}", f"$KV.{bucket}.{key}", value, headers=headers)).number


async def delete(bus: Bus, bucket: str, key: str, *, last: int) -> None:
    """Mark an entry deleted, as `put`."""
    headers = {"Nats-Expected-Last-Subject-Sequence": str(last), _OPERATION: "DEL"}
    await append(bus, f"KV_{bucket}", f"$KV.{bucket}.{key}", b"", headers=headers)


async def get(bus: Bus, bucket: str, key: str) -> Entry | None:
    """An entry, also one that is marked deleted; None when there never was one, or it has expired."""
    found = await _message(bus, f"KV_{bucket}", {"last_by_subj": f"$KV.{bucket}.{key}"})
    return None if found is None else Entry(found.number, found.data, _OPERATION in found.headers)


async def has_message(bus: Bus, stream: str, number: int) -> bool:
    """Raises Unavailable."""
    return await _message(bus, stream, {"seq": number}) is not None


async def newest_of(bus: Bus, stream: str, subject: str) -> tuple[int, dict[str, str]] | None:
    """Number and headers of a subject's newest message. Raises Unavailable."""
    found = await _message(bus, stream, {"last_by_subj": subject})
    return None if found is None else (found.number, found.headers)


async def append(bus: Bus, stream: str, subject: str, data: bytes, *, headers: dict[str, str]) -> Appended:
    """Add a message to a stream. Raises Unavailable: it was not acknowledged, and may be there or not."""
    headers = headers | {"Nats-Expected-Stream": stream}
    answer = await _request(bus, subject, data, headers)
    return Appended(int(answer["seq"]), bool(answer.get("duplicate")))


class _Message(NamedTuple):
    """A message as a stream keeps it."""

    number: int
    headers: dict[str, str]
    data: bytes


async def _message(bus: Bus, stream: str, which: dict[str, Any]) -> _Message | None:
    """Source: NATS JetStream API, STREAM.MSG.GET. Raises Unavailable."""
    try:
        found = (await _ask(bus, f"STREAM.MSG.GET.{stream}", which))["message"]
    except NotFound:
        return None
    headers, data = (base64.b64decode(found.get(part, "")) for part in ("hdrs", "data"))
    return _Message(int(found["seq"]), _headers(headers), data)


def _headers(block: bytes) -> dict[str, str]:
    """Of ``NATS/1.0\\r\\nName: value\\r\\n…``."""
    lines = block.decode().split("\r\n")[1:]
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines) if name}


async def _ask(bus: Bus, verb: str, request: dict[str, Any] | None) -> dict[str, Any]:
    return await _request(bus, f"$JS.API.{verb}", b"" if request is None else orjson.dumps(request), None)


async def _request(bus: Bus, subject: str, data: bytes, headers: dict[str, str] | None) -> dict[str, Any]:
    try:
        message = await bus.nats.request(subject, data, timeout=TIMEOUT_S, headers=headers)
    except nats.errors.NoRespondersError as error:
        raise NotFound(f"no stream takes {subject}") from error
    except (nats.errors.Error, TimeoutError, OSError) as error:
        raise Unavailable(f"JetStream does not answer: {error or type(error).__name__}") from error
    answer: dict[str, Any] = orjson.loads(message.data)
    if "error" not in answer:
        return answer
    reason = answer["error"]
    text = str(reason.get("description") or reason.get("code"))
    if reason.get("code") == 404:
        raise NotFound(text)
    if reason.get("err_code") in _WRONG_LAST_SEQUENCE:
        raise Conflict(text)
    raise Unavailable(f"JetStream refuses: {text}")
