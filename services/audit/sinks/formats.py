"""Records in the forms that others read: as they are, as CloudEvents, or in OCSF's API Activity class.

Source: CloudEvents 1.0.2, "JSON Event Format" section 4 (batches); OCSF 1.5.0, class 6003.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from shared.auditing.records import decoded
from shared.docker.moments import parse_rfc3339_ns
from shared.version import VERSION

TYPE_PREFIX = "org.davit.audit."
_OCSF_VERSION = "1.5.0"
# OCSF's activity_id: 1 create, 2 read, 3 update, 4 delete, 99 other.
_ACTIVITIES = {
    "create": 1, "pull": 1, "import": 1, "load": 1, "build": 1, "commit": 1,
    "list": 2, "inspect": 2, "logs": 2, "stats": 2, "top": 2, "changes": 2, "search": 2, "history": 2, "events": 2,
    "archive-get": 2, "archive-stat": 2, "export": 2, "save": 2, "info": 2, "version": 2, "df": 2,
    "update": 3, "rename": 3, "tag": 3, "connect": 3, "disconnect": 3, "archive-put": 3,
    "remove": 4, "prune": 4, "destroy": 4,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Format:
    """How records are written.

    Attributes:
        one: From a record's line to its form, as JSON.
        batch_type: The media type of several, in an array.
    """

    one: Callable[[bytes], bytes]
    batch_type: str

    def batch(self, lines: Sequence[bytes]) -> bytes:
        return b"[" + b",".join(self.one(line) for line in lines) + b"]"


def format_of(name: str, origin: str) -> Format:
    """The format of a name, for a log of this name."""
    match name:
        case "native":
            return Format(lambda line: line, "application/json")
        case "cloudevents":
            return Format(lambda line: _cloud_event(line, origin), "application/cloudevents-batch+json")
        case _:
            return Format(lambda line: _ocsf(line, origin), "application/json")


def _cloud_event(line: bytes, origin: str) -> bytes:
    from cloudevents.core.formats.json import JSONFormat
    from cloudevents.core.v1.event import CloudEvent

    record = decoded(line)
    attributes: dict[str, Any] = {
        "id": f"{record['number']}",
        "source": f"/{origin}",
        "type": TYPE_PREFIX + str(record["kind"]),
        "time": datetime.fromtimestamp(parse_rfc3339_ns(record["time"]) / 1e9, UTC),
        "datacontenttype": "application/json",
        "sequence": f"{record['number']:020d}",  # the extension of that name: to be compared as texts
    }
    if name := _object_of(record):
        attributes["subject"] = name
    return bytes(JSONFormat().write(CloudEvent(attributes, record)))


def _object_of(record: dict[str, Any]) -> str:
    action = record.get("action") or {}
    return "/".join(str(action[key]) for key in ("resource", "object") if action.get(key))


def _ocsf(line: bytes, origin: str) -> bytes:
    # Its schema takes 25 MB, which only who delivers in this form is to pay.
    from ocsf.v1_5_0.events import ApiActivity

    record = decoded(line)
    event = ApiActivity.model_validate(ocsf_values(record, origin))
    return event.model_dump_json(exclude_none=True, by_alias=True).encode()


def ocsf_values(record: dict[str, Any], origin: str) -> dict[str, Any]:
    """The values of an API Activity; the whole record stays in `unmapped`."""
    action, actor, client = (record.get(key) or {} for key in ("action", "actor", "client"))
    outcome = record.get("outcome") or {}
    verb = str(action.get("verb") or record["kind"])
    activity = _ACTIVITIES.get(verb, 99)
    status = outcome.get("status")
    failed = status is None or status >= 400
    values: dict[str, Any] = {
        "activity_id": activity,
        "category_uid": 6,
        "class_uid": 6003,
        "type_uid": 600300 + activity,
        "severity_id": 1,
        "time": parse_rfc3339_ns(record["time"]) // 1_000_000,
        "message": f"{record['kind']} {verb} {_object_of(record)}".strip(),
        "metadata": {
            "version": _OCSF_VERSION,
            "uid": f"{origin}#{record['number']}",
            "sequence": record["number"],
            "log_name": origin,
            "correlation_uid": record.get("request"),
            "product": {"name": "davit", "vendor_name": "davit", "version": VERSION},
        },
        "actor": {
            "user": {"name": actor.get("user") or actor.get("name") or "unknown", "uid": str(actor.get("uid", ""))},
            **({"process": {"pid": actor["pid"], "name": actor.get("exe")}} if "pid" in actor else {}),
        },
        "api": {"operation": f"{action.get('resource', 'log')}.{verb}", "version": client.get("version")},
        "src_endpoint": {"ip": client["address"].rpartition(":")[0].strip("[]")}
        if client.get("address")
        else {"name": "local"},
        "unmapped": record,
    }
    if outcome:
        values["status_id"] = 2 if failed else 1
        values["status_code"] = str(status)
        values["api"]["response"] = {"code": status, "error": outcome.get("error") or None}
        if outcome.get("error"):
            values["status_detail"] = outcome["error"]
    if name := action.get("object"):
        values["resources"] = [{"name": str(name), "type": action.get("resource")}]
    return values


def json_line(value: Any) -> bytes:
    return orjson.dumps(value)
