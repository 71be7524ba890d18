"""Records from the engine, and a line of text for each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from shared.docker.client import EngineClient
from shared.errors import NotFound

PAGE = 1000


def pages(client: EngineClient, first: int, end: int) -> Iterator[dict[str, Any]]:
    """Records from a number up to another, without it; those that were removed are left out."""
    while first < end:
        found = list(client.lines("GET", f"/audit?from={first}&limit={min(PAGE, end - first)}&wait=0"))
        if not found:
            return
        yield from found
        first = found[-1]["number"] + 1


def oldest(client: EngineClient) -> int:
    return int(client.get("/audit/state")["First"])


def line(record: dict[str, Any]) -> str:
    """``12 2026-… complete uid:0(root) container start web 204``."""
    actor, action = record.get("actor") or {}, record.get("action") or {}
    who = str(actor.get("name", "-"))
    if actor.get("user"):
        who += f"({actor['user']})"
    what = " ".join(str(action[key]) for key in ("resource", "verb", "object") if action.get(key))
    parts = [str(record["number"]), record["time"][:23] + "Z", record["kind"], who, what or "-"]
    outcome = record.get("outcome")
    if outcome is not None:
        parts.append(str(outcome.get("status") or "unknown"))
        if outcome.get("error"):
            parts.append(f"({outcome['error']})")
    if record.get("cause"):
        parts.append(f"because {record['cause']}")
    if gap := record.get("gap"):
        parts.append(f"{'unknown' if gap['count'] is None else gap['count']} not recorded: {gap['reason']}")
    if session := record.get("session"):
        parts.append(f"in {session['received_bytes']} out {session['sent_bytes']} bytes")
    return " ".join(parts)


def shown(record: dict[str, Any], as_json: bool) -> str:
    return json.dumps(record, ensure_ascii=False, sort_keys=True, separators=(",", ":")) if as_json else line(record)


def not_there(number: int) -> NotFound:
    return NotFound(f"there is no record {number}")
