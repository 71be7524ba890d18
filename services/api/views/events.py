"""Events as Docker's messages, and Docker's filters on them."""

from __future__ import annotations

from services.api.answers.system import EventLegacy, EventMessage
from services.api.versions import Version
from shared.docker.filters import Filters, check_keys, has_label
from shared.events.record import DomainEvent

FILTERS = frozenset(
    {
        "config",
        "container",
        "daemon",
        "event",
        "image",
        "label",
        "network",
        "node",
        "plugin",
        "scope",
        "secret",
        "service",
        "type",
        "volume",
    }
)
WITHOUT_LEGACY = (1, 52)
# Actions that carry a value after a colon, and that a filter may name without it.
WITH_VALUE = ("health_status", "exec_create", "exec_start")


def message(event: DomainEvent, version: Version) -> EventMessage:
    """One line of `/events`; in older versions with what older clients look for in containers and images."""
    legacy: EventLegacy = {}
    if version >= WITHOUT_LEGACY:
        pass
    elif event.type == "container":
        legacy = {"status": event.action, "id": event.actor_id, "from": event.attributes.get("image", "")}
    elif event.type == "image":
        legacy = {"status": event.action, "id": event.actor_id}
    return {
        **legacy,
        "Type": event.type,
        "Action": event.action,
        "Actor": {"ID": event.actor_id, "Attributes": event.attributes},
        "scope": event.scope,
        "time": event.time_ns // 10**9,
        "timeNano": event.time_ns,
    }


class EventFilter:
    """Docker's filters: every key must match, and within a key any value (all of them for labels).

    Raises:
        InvalidArgument: For a key that events do not have.
    """

    def __init__(self, filters: Filters) -> None:
        check_keys(filters, FILTERS)
        self._filters = {key: values for key, values in filters.items() if values}

    def matches(self, event: DomainEvent) -> bool:
        return all(self._match(key, values, event) for key, values in self._filters.items())

    def _match(self, key: str, values: list[str], event: DomainEvent) -> bool:
        match key:
            case "type":
                return event.type in values
            case "scope":
                return event.scope in values
            case "event":
                return any(_action_matches(value, event.action) for value in values)
            case "label":
                return all(has_label(event.attributes, value) for value in values)
            case "image":
                return any(name in values for name in _image_names(event))
            case _:
                names = (event.actor_id, event.attributes.get("name", ""))
                return any(name.startswith(value) for name in names for value in values)


def _action_matches(wanted: str, action: str) -> bool:
    return action == wanted or (wanted in WITH_VALUE and action.startswith(wanted))


def _image_names(event: DomainEvent) -> list[str]:
    name = event.attributes.get("name" if event.type == "image" else "image", "")
    return [text for full in (event.actor_id, name) for text in (full, _without_tag(full)) if text]


def _without_tag(reference: str) -> str:
    head, colon, tail = reference.rpartition(":")
    return head if colon and "/" not in tail else reference
