"""Links on the default bridge: which container stands for an alias, and what its environment tells of it. Pure.

::

    docker run --name web --link db:alias      HostConfig.Links ["/db:/web/alias"], a name "/web/alias" of db,
                                               ALIAS_PORT_5432_TCP=tcp://172.17.0.2:5432, … in web

Source: Docker's legacy container links; names and values as the reference engine gives them.
"""

from __future__ import annotations

from collections.abc import Sequence

from services.executor.control.domain import Record
from shared.errors import InvalidArgument

DEFAULT_MODES = ("default", "bridge")
# Of the linked container's environment these are its own affair.
PRIVATE = ("HOME", "PATH")


def parse_link(text: str) -> tuple[str, str]:
    """(container, alias) of ``container``, ``container:alias``, or of what inspect shows, ``/container:/name/alias``.

    Raises:
        InvalidArgument: It is something else.
    """
    ref, *rest = text.split(":")
    if len(rest) > 1 or not ref or (rest and not rest[0]):
        raise InvalidArgument(f"bad format for links: {text}", field="HostConfig.Links")
    if not rest:
        return ref, ref
    if rest[0].startswith("/"):
        return ref.removeprefix("/"), rest[0].rpartition("/")[2]
    return ref, rest[0]


def shown(record: Record, targets: dict[str, Record]) -> list[str]:
    """A container's links as inspect has them; of containers that are gone, none.

    Args:
        targets: By id.
    """
    there = [(targets[one].name, alias) for alias, one in record.links.items() if one in targets]
    return sorted(f"/{name}:/{record.name}/{alias}" for name, alias in there)


def check_linkable(record: Record, alias: str, target: Record | None, target_id: str) -> Record:
    """The container behind a link, fit for a start. Raises InvalidArgument in Docker's words."""
    if target is not None and target.container.host_config.network_mode not in DEFAULT_MODES:
        raise InvalidArgument(
            f"Cannot link to /{target.name}, as it does not belong to the default network", field="HostConfig.Links"
        )
    if target is None or target.status not in ("running", "paused"):
        name = f"/{target.name}" if target is not None else target_id[:12]
        raise InvalidArgument(
            f"Cannot link to a non running container: {name} AS /{record.name}/{alias}", field="HostConfig.Links"
        )
    return target


def environment(name: str, alias: str, target: Record) -> list[str]:
    """The variables that tell a container of one that it is linked to."""
    prefix = alias.upper().replace("-", "_")
    address = target.container.networks["bridge"].ip_address if "bridge" in target.container.networks else ""
    ports = (port.partition("/") for port in target.container.config.exposed_ports)
    exposed = [(int(number), protocol or "tcp") for number, _, protocol in ports]
    exposed.sort(key=lambda one: (one[0], one[1] != "tcp"))
    found = []
    if exposed:
        number, protocol = exposed[0]
        found.append(f"{prefix}_PORT={protocol}://{address}:{number}")
    for first, last in _runs(exposed):
        found += _range(f"{prefix}_PORT_{first[0]}_{first[1].upper()}", first, last, address)
    for number, protocol in exposed:
        at = f"{prefix}_PORT_{number}_{protocol.upper()}"
        found += [f"{at}={protocol}://{address}:{number}", f"{at}_ADDR={address}", f"{at}_PORT={number}"]
        found.append(f"{at}_PROTO={protocol}")
    found.append(f"{prefix}_NAME=/{name}/{alias}")
    for entry in target.container.config.env:
        key, separator, value = entry.partition("=")
        if separator and key not in PRIVATE:
            found.append(f"{prefix}_ENV_{key}={value}")
    return found


Port = tuple[int, str]


def _runs(ports: Sequence[Port]) -> list[tuple[Port, Port]]:
    """First and last of each three or more ports that follow each other."""
    found, start = [], 0
    while start < len(ports):
        end = start
        while end + 1 < len(ports) and ports[end + 1][0] <= ports[start][0] + (end + 1 - start):
            end += 1
        if end > start + 1:
            found.append((ports[start], ports[end]))
        start = end + 1
    return found


def _range(at: str, first: Port, last: Port, address: str) -> list[str]:
    number, protocol = first
    return [
        f"{at}_START={protocol}://{address}:{number}",
        f"{at}_ADDR={address}",
        f"{at}_PROTO={protocol}",
        f"{at}_PORT_START={number}",
        f"{at}_END={last[1]}://{address}:{last[0]}",
        f"{at}_PORT_END={last[0]}",
    ]
