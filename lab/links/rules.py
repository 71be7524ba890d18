"""Cuts and losses as rules of nftables, on the bridges of the lab's namespace. Pure.

Source: nft(8), "FORWARD" of the bridge family, "NUMGEN EXPRESSION".
"""

from __future__ import annotations

from collections.abc import Iterable

from lab.links import names
from lab.links.wires import Flow

TABLE = "lab"
_PARTS = 1_000_000


def ruleset(flows: Iterable[Flow], relayed: Iterable[Flow], dark: Iterable[str]) -> str:
    """The whole table, to replace what there is in one transaction.

    Args:
        flows: All; those that nothing happens to need no rule.
        relayed: Those of which a relay takes care: the bridge lets none of their frames pass.
        dark: Ports of nodes that are paused or off, which neither hear nor say anything.
    """
    by_relay = {(flow.net, flow.source, flow.target) for flow in relayed}
    stopped, lossy = [], []
    for flow in flows:
        way = names.port(flow.net, flow.source), names.port(flow.net, flow.target)
        if flow.cut or (flow.net, flow.source, flow.target) in by_relay:
            stopped.append(f'"{way[0]}" . "{way[1]}"')
        elif flow.impairment.loss:
            share = round(flow.impairment.loss / 100 * _PARTS)
            lossy.append(f'iifname "{way[0]}" oifname "{way[1]}" numgen random mod {_PARTS} < {share} drop')
    lines = [f"add table bridge {TABLE}", f"delete table bridge {TABLE}", f"add table bridge {TABLE}",
             f"add chain bridge {TABLE} forward {{ type filter hook forward priority 0; }}"]  # fmt: skip
    rule = f"add rule bridge {TABLE} forward "
    ports = ", ".join(f'"{port}"' for port in sorted(dark))
    if ports:
        lines += [f"{rule}iifname {{ {ports} }} drop", f"{rule}oifname {{ {ports} }} drop"]
    if stopped:
        lines.append(f"{rule}iifname . oifname {{ {', '.join(sorted(stopped))} }} drop")
    lines += [rule + text for text in lossy]
    return "\n".join(lines) + "\n"
