"""Reads containerlab's topology files, those of nodes of kind ``linux``, as a lab's.

Source: containerlab, "Topology definition" and "Nodes".
"""

from __future__ import annotations

from typing import Any

_Found = list[tuple[tuple[str | int, ...], str]]
# Field of a node -> ours. What defaults, kinds and groups say is inherited.
_FIELDS = {"image": "image", "cmd": "command", "binds": "binds", "ports": "ports", "env": "environment",
           "exec": "exec", "labels": "labels"}  # fmt: skip
_MERGED = {"env": dict, "labels": dict, "binds": list, "exec": list}
_SILENT = frozenset({"kind", "group"})


def is_one(values: dict[str, Any]) -> bool:
    """Whether this is containerlab's form: it has everything below ``topology``."""
    return isinstance(values.get("topology"), dict) and "nodes" not in values


def translated(values: dict[str, Any]) -> tuple[dict[str, Any], _Found]:
    """The values of a lab's file, and what in containerlab's has no counterpart."""
    found: _Found = [((key,), "is not understood of containerlab's files")
                     for key in values if key not in ("name", "topology")]  # fmt: skip
    topology = values["topology"]
    parts = ("nodes", "links", "defaults", "kinds", "groups")
    found += [(("topology", key), "is not understood of containerlab's files") for key in topology if key not in parts]
    nodes = {}
    for name, node in (topology.get("nodes") or {}).items():
        nodes[name] = _node(("topology", "nodes", name), node or {}, topology, found)
    links = [_link(index, link, found) for index, link in enumerate(topology.get("links") or [])]
    result = {"nodes": nodes, "links": [link for link in links if link]}
    if not links:
        result["segments"] = {"clab": {"nodes": list(nodes)}}
    return ({"name": values["name"]} if "name" in values else {}) | result, found


def _node(path: tuple[str | int, ...], node: dict[str, Any], topology: dict[str, Any], found: _Found) -> dict[str, Any]:
    defaults = topology.get("defaults") or {}
    group = (topology.get("groups") or {}).get(node.get("group") or defaults.get("group")) or {}
    kind = node.get("kind") or group.get("kind") or defaults.get("kind")
    if kind != "linux":
        found.append(((*path, "kind"), f"only nodes of kind linux are understood, not {kind!r}"))
        return {}
    inherited = (defaults, (topology.get("kinds") or {}).get("linux") or {}, group, node)
    result: dict[str, Any] = {"role": "image"}
    for source in inherited:
        for field, value in source.items():
            if field not in _FIELDS:
                if field not in _SILENT:
                    found.append(((*path, field), "is not understood of containerlab's nodes"))
                continue
            result[_FIELDS[field]] = _joined(field, result.get(_FIELDS[field]), value)
    return result


def _joined(field: str, before: Any, value: Any) -> Any:
    """What a nearer source says in place of a farther one, or in addition to it."""
    kind = _MERGED.get(field)
    if kind is None or before is None or not isinstance(value, kind):
        return value
    return before | value if kind is dict else before + value


def _link(index: int, link: Any, found: _Found) -> dict[str, Any] | None:
    path: tuple[str | int, ...] = ("topology", "links", index)
    if not isinstance(link, dict):
        found.append((path, "is not a mapping with endpoints"))
        return None
    found += [((*path, key), "is not understood of containerlab's links")
              for key in link if key not in ("endpoints", "mtu", "type")]  # fmt: skip
    if link.get("type", "veth") != "veth":
        found.append(((*path, "type"), f"only veth is understood, not {link['type']!r}"))
    ends = link.get("endpoints")
    pairs = [_endpoint(end) for end in ends] if isinstance(ends, list) and len(ends) == 2 else []
    if not pairs or not all(pairs):
        found.append(((*path, "endpoints"), 'two are needed, each of the form "node:interface"'))
        return None
    return {"between": pairs, "addresses": {}} | ({"mtu": link["mtu"]} if "mtu" in link else {})


def _endpoint(end: Any) -> str:
    """``node:interface`` of both of containerlab's forms; "" when it is neither."""
    if isinstance(end, dict) and set(end) <= {"node", "interface"} and len(end) == 2:
        return f"{end['node']}:{end['interface']}"
    return end if isinstance(end, str) and end.count(":") == 1 else ""
