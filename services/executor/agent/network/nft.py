"""The firewall: one table, static chains, and everything that changes as elements of its sets and maps.

::

    prerouting, output (dstnat)   to a local address → published? → DNAT to the container
    guard (raw)                   a container may not address the host's 127.0.0.0/8 through route_localnet
    forward                       replies; inside one bridge; published ports; else nothing enters a bridge
    postrouting (srcnat)          hairpin, loopback and outbound traffic leave with the host's address

`accept` ends only this table's chain: other firewalls on the host keep their say. Traffic inside one bridge does not
pass here at all (no br_netfilter); inter-container communication is switched off at the bridge's ports instead.

Source: nft(8).
"""

from __future__ import annotations

import json
import struct
from typing import Any

from services.executor.agent.network import netlink
from services.executor.agent.network.netlink import Message, Netlink
from services.executor.agent.network.wanted import Elements
from shared.kernel.nftables import Nftables

TABLE = "davit"
NFT_MSG_GETGEN = (10 << 8) | 16  # subsystem nf_tables
NFTA_GEN_ID = 1
NFGENMSG = struct.pack("=BBH", 0, 0, 0)

# name -> (kind, type, flags)
SETS: dict[str, tuple[str, str, str]] = {
    "bridges": ("set", "ifname", ""),
    "internal": ("set", "ifname", ""),
    "within": ("set", "ifname . ifname", ""),
    "own4": ("set", "ifname . ipv4_addr", "interval"),
    "own6": ("set", "ifname . ipv6_addr", "interval"),
    "masquerade4": ("set", "ipv4_addr", "interval"),
    "masquerade6": ("set", "ipv6_addr", "interval"),
    "publish4": ("map", "ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service", ""),
    "publish4_any": ("map", "inet_proto . inet_service : ipv4_addr . inet_service", ""),
    "publish6": ("map", "ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service", ""),
    "publish6_any": ("map", "inet_proto . inet_service : ipv6_addr . inet_service", ""),
}

CHAINS = """
  chain publish {
    meta l4proto != { tcp, udp, sctp } return
    ip6 daddr ::1 return
    meta nfproto ipv4 dnat ip to ip daddr . meta l4proto . th dport map @publish4
    meta nfproto ipv4 dnat ip to meta l4proto . th dport map @publish4_any
    meta nfproto ipv6 dnat ip6 to ip6 daddr . meta l4proto . th dport map @publish6
    meta nfproto ipv6 dnat ip6 to meta l4proto . th dport map @publish6_any
  }
  chain prerouting {
    type nat hook prerouting priority dstnat; policy accept;
    fib daddr type local jump publish
  }
  chain output {
    type nat hook output priority -100; policy accept;
    fib daddr type local jump publish
  }
  chain guard {
    type filter hook prerouting priority raw; policy accept;
    iifname @bridges ip daddr 127.0.0.0/8 drop
    iifname @bridges ip saddr 127.0.0.0/8 drop
  }
  chain forward {
    type filter hook forward priority filter; policy accept;
    iifname != @bridges oifname != @bridges accept
    iifname . oifname @within accept
    ct state established,related accept
    iifname @internal drop
    oifname @internal drop
    oifname @bridges ct status dnat accept
    oifname @bridges drop
  }
  chain postrouting {
    type nat hook postrouting priority srcnat; policy accept;
    ct status dnat oifname . ip saddr @own4 masquerade
    ct status dnat oifname . ip6 saddr @own6 masquerade
    oifname @bridges ip saddr 127.0.0.0/8 masquerade
    oifname . ip saddr @own4 return
    oifname . ip6 saddr @own6 return
    ip saddr @masquerade4 masquerade
    ip6 saddr @masquerade6 masquerade
  }
"""


class Firewall:
    """The engine's table: installed whole, changed by elements, compared with the kernel.

    Not for two threads at once.

    Args:
        table: Its name.
        ipv6: Whether it is about IPv6 too.
    """

    def __init__(self, table: str = TABLE, *, ipv6: bool = True) -> None:
        self._table, self._ipv6 = table, ipv6
        self._nftables = Nftables()
        self._generations = Netlink(netlink.NETLINK_NETFILTER)
        self._generation = -1
        self._chains: list[Any] = []

    def close(self) -> None:
        self._generations.close()
        self._nftables.close()

    def install(self, elements: Elements) -> None:
        """Replace the whole table in one transaction; connections in progress are not touched."""
        self._nftables.run(ruleset(elements, self._table, ipv6=self._ipv6))
        self._chains, _ = self._list()
        self._generation = self._current_generation()

    def present(self) -> Elements:
        """The elements the kernel has now; nothing when there is no table."""
        try:
            return self._list()[1]
        except OSError:
            return {}

    def change(self, *, add: Elements | None = None, remove: Elements | None = None) -> None:
        """Add and remove elements in one transaction. Raises OSError when the kernel refuses any of them."""
        commands = [
            f"{verb} element inet {self._table} {name} {{ {', '.join(sorted(elements))} }}"
            for verb, wanted in (("delete", remove or {}), ("add", add or {}))
            for name, elements in wanted.items()
            if elements
        ]
        if commands:
            self._nftables.run("\n".join(commands))

    def differs(self, wanted: Elements, *, extra_allowed: bool = False) -> bool:
        """Whether the kernel's table is not what is wanted. Costs one small request while nobody changed any table.

        Args:
            extra_allowed: Whether elements beyond the wanted ones are right too.
        """
        generation = self._current_generation()
        if generation == self._generation:
            return False
        try:
            chains, present = self._list()
        except OSError:
            return True
        if chains != self._chains or not _same(present, wanted, extra_allowed=extra_allowed):
            return True
        self._generation = generation
        return False

    def _list(self) -> tuple[list[Any], Elements]:
        return parse_listing(self._nftables.run(f"list table inet {self._table}"))

    def _current_generation(self) -> int:
        answers = self._generations.ask(Message(NFT_MSG_GETGEN, NFGENMSG))
        (generation,) = struct.unpack(">I", netlink.attributes(answers[0][1][4:])[NFTA_GEN_ID])
        return int(generation)


class NoFirewall:
    """In the place of `Firewall` on a node whose firewall is not the engine's to touch."""

    def close(self) -> None:
        return

    def install(self, elements: Elements) -> None:
        return

    def present(self) -> Elements:
        return {}

    def change(self, *, add: Elements | None = None, remove: Elements | None = None) -> None:
        return

    def differs(self, wanted: Elements, *, extra_allowed: bool = False) -> bool:
        return False


def ruleset(elements: Elements, table: str = TABLE, *, ipv6: bool = True) -> str:
    """The commands that replace the table by one with these elements."""
    lines = [f"add table inet {table}", f"delete table inet {table}", f"table inet {table} {{"]
    for name, (kind, kind_of, flags) in SETS.items():
        extras = f" flags {flags};" if flags else ""
        if elements.get(name):
            extras += f" elements = {{ {', '.join(sorted(elements[name]))} }};"
        lines.append(f"  {kind} {name} {{ type {kind_of};{extras} }}")
    # A rule in front of all others lets IPv6 pass by.
    chains = CHAINS if ipv6 else CHAINS.replace("policy accept;\n", "policy accept;\n    meta nfproto ipv6 accept\n")
    return "\n".join(lines) + chains + "}\n"


def parse_listing(listing: bytes) -> tuple[list[Any], Elements]:
    """(chains and rules without their handles, elements) of a JSON listing of the table."""
    chains: list[Any] = []
    elements: Elements = {}
    for item in json.loads(listing)["nftables"]:
        for kind in ("chain", "rule"):
            if kind in item:
                chains.append({key: value for key, value in item[kind].items() if key != "handle"})
        for kind in ("set", "map"):
            if kind in item and item[kind]["name"] in SETS:
                name = item[kind]["name"]
                elements[name] = {_element(name, element) for element in item[kind].get("elem", [])}
    return chains, elements


def _element(name: str, element: Any) -> str:
    key_types, _, value_types = SETS[name][1].partition(" : ")
    if SETS[name][0] == "map":
        return f"{_fields(element[0], key_types)} : {_fields(element[1], value_types)}"
    return _fields(element, key_types)


def _fields(value: Any, types: str) -> str:
    if isinstance(value, dict) and "elem" in value:  # an element with a comment or a counter
        value = value["elem"]["val"]
    parts = value["concat"] if isinstance(value, dict) and "concat" in value else [value]
    return " . ".join(_field(part, kind) for part, kind in zip(parts, types.split(" . "), strict=True))


def _field(value: Any, kind: str) -> str:
    if isinstance(value, dict) and "prefix" in value:
        return f"{value['prefix']['addr']}/{value['prefix']['len']}"
    return f'"{value}"' if kind == "ifname" else str(value)


def _same(present: Elements, wanted: Elements, *, extra_allowed: bool) -> bool:
    for name in SETS:
        have, want = present.get(name, set()), wanted.get(name, set())
        if have != want and not (extra_allowed and want <= have):
            return False
    return True
