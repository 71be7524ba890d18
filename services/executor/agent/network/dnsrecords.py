"""Which names have which addresses, network by network. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from shared.contracts.networks import Attachment

Addresses = tuple[str, str]
"""IPv4 and IPv6 address of an endpoint, each empty without that family."""


@dataclass(slots=True)
class NameRecords:
    """Names of endpoints on user-defined networks. Names are compared without case."""

    _endpoints: dict[str, Attachment] = field(default_factory=dict)
    _names: dict[tuple[str, str], dict[str, Addresses]] = field(default_factory=dict)
    _reverse: dict[tuple[str, str], str] = field(default_factory=dict)

    def replace(self, attachments: Iterable[Attachment]) -> None:
        """These and no others."""
        self._endpoints.clear()
        self._names.clear()
        self._reverse.clear()
        for attachment in attachments:
            self.add(attachment)

    def add(self, attachment: Attachment) -> None:
        """Add an endpoint's names, or follow their change."""
        if not attachment.network.dns:
            return
        self.remove(attachment)
        self._endpoints[attachment.endpoint_id] = attachment
        network, addresses = attachment.network.id, _addresses(attachment)
        for name in _names(attachment):
            self._names.setdefault((network, name), {})[attachment.endpoint_id] = addresses
        for address in filter(None, addresses):
            if attachment.dns_names:
                self._reverse[(network, address)] = f"{attachment.dns_names[0]}.{attachment.network.name}"

    def remove(self, attachment: Attachment) -> None:
        known = self._endpoints.pop(attachment.endpoint_id, None)
        if known is None:
            return
        for name in _names(known):
            holders = self._names.get((known.network.id, name), {})
            holders.pop(known.endpoint_id, None)
            if not holders:
                self._names.pop((known.network.id, name), None)
        for address in filter(None, _addresses(known)):
            self._reverse.pop((known.network.id, address), None)

    def lookup(self, networks: Sequence[str], name: str) -> list[Addresses] | None:
        """Addresses of a name on the first of these networks (ids) that knows it; None when none does."""
        for network in networks:
            holders = self._names.get((network, name.lower()))
            if holders:
                return list(holders.values())
        return None

    def name_of(self, networks: Sequence[str], address: str) -> str:
        """The name of an address on these networks, ``name.network``; empty when unknown."""
        for network in networks:
            found = self._reverse.get((network, address))
            if found:
                return found
        return ""


def _names(attachment: Attachment) -> set[str]:
    """Every name, and the same with the network's name behind it, as Docker resolves both."""
    names = {name.lower() for name in attachment.dns_names if name}
    return names | {f"{name}.{attachment.network.name.lower()}" for name in names}


def _addresses(attachment: Attachment) -> Addresses:
    return attachment.address.partition("/")[0], attachment.address6.partition("/")[0]
