"""Which containers a list shows. Pure.

Source: Docker Engine API 1.50, ContainerList, filters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from shared.contracts.containers import ContainerSummary
from shared.docker.filters import Filters, check_keys, has_labels, truth
from shared.errors import InvalidArgument

STATES = ("created", "running", "paused", "restarting", "removing", "exited", "dead")
HEALTH = ("starting", "healthy", "unhealthy", "none")
KEYS = frozenset(
    {
        "ancestor", "before", "exited", "expose", "health", "id", "is-task", "isolation", "label", "name", "network",
        "node", "publish", "since", "status", "volume",
    }
)  # fmt: skip
# Filters that make sense for containers that do not run: with them a list shows those too.
SHOW_ALL = frozenset({"status", "exited", "before", "since"})
PORT = re.compile(r"^(\d+)(?:-(\d+))?(?:/(tcp|udp|sctp))?$")


def check_filters(filters: Filters) -> None:
    """Raises InvalidArgument with Docker's words for an unknown filter or value."""
    check_keys(filters, KEYS)
    truth(filters, "is-task")
    for key, values in filters.items():
        for value in values:
            if key == "status" and value not in STATES:
                raise InvalidArgument(f"invalid filter 'status={value}'", field="filters")
            if key == "health" and value not in HEALTH:
                raise InvalidArgument(f"invalid filter 'health={value}'", field="filters")
            if key == "exited" and not value.lstrip("-").isdigit():
                raise InvalidArgument(f"invalid filter 'exited={value}'", field="filters")
            if key in ("publish", "expose") and not PORT.match(value):
                raise InvalidArgument(f"invalid filter '{key}={value}'", field="filters")


def _matches_pattern(value: str, patterns: Iterable[str]) -> bool:
    for pattern in patterns:
        try:
            if re.search(pattern, value):
                return True
        except re.error as error:
            raise InvalidArgument(f"invalid filter pattern {pattern!r}: {error}", field="filters") from error
    return False


def _ports(values: Iterable[str]) -> set[str]:
    found = set()
    for value in values:
        match = PORT.match(value)
        if match:
            for number in range(int(match[1]), int(match[2] or match[1]) + 1):
                found.add(f"{number}/{match[3] or 'tcp'}")
    return found


def _published(summary: ContainerSummary) -> set[str]:
    """Ports of the host, with their protocol."""
    return {
        f"{binding.host_port}/{port.partition('/')[2]}" for port, bound in summary.ports.items() for binding in bound
    }


def shown(summary: ContainerSummary, filters: Filters, ancestors: set[str]) -> bool:
    """Whether a container passes every filter.

    Args:
        summary: With `status_text` still in its stored form.
        ancestors: Image ids that the ancestor filter stands for.
    """
    exit_code, _, _, health = summary.status_text.split("|")
    name = "/" + summary.name
    checks: dict[str, Callable[[list[str]], bool]] = {
        "status": lambda values: summary.status in values,
        "exited": lambda values: summary.status == "exited" and exit_code in values,
        "health": lambda values: (health or "none") in values,
        "label": lambda _: has_labels(summary.labels, filters),
        "id": lambda values: (
            any(summary.id.startswith(value) for value in values) or _matches_pattern(summary.id, values)
        ),
        "name": lambda values: _matches_pattern(name, values) or _matches_pattern(summary.name, values),
        "ancestor": lambda values: summary.image_id in ancestors or summary.image in values,
        "volume": lambda values: any(
            value in (point.name, point.destination) for point in summary.mounts for value in values
        ),
        "network": lambda values: any(
            value in (key, settings.network_id) for key, settings in summary.networks.items() for value in values
        ),
        "publish": lambda values: bool(_ports(values) & _published(summary)),
        "expose": lambda values: bool(_ports(values) & set(summary.ports)),
        "is-task": lambda _: truth(filters, "is-task") is False,
        "node": lambda values: summary.node in values,
        "isolation": lambda values: values[0] in ("", "default"),
    }
    return all(checks[key](values) for key, values in filters.items() if key in checks and values)


@dataclass(frozen=True, slots=True)
class Selection:
    """A list's filters, with what they refer to looked up.

    Attributes:
        ancestors: Image ids that the ancestor filter stands for.
        before_ns, since_ns: When the containers that these filters name were created; None without the filter.
    """

    filters: Filters
    ancestors: set[str]
    before_ns: int | None = None
    since_ns: int | None = None

    def takes(self, summary: ContainerSummary, created_ns: int) -> bool:
        if self.before_ns is not None and created_ns >= self.before_ns:
            return False
        if self.since_ns is not None and created_ns <= self.since_ns:
            return False
        return shown(summary, self.filters, self.ancestors)


def wants_all(filters: Filters) -> bool:
    return bool(SHOW_ALL & set(filters))
