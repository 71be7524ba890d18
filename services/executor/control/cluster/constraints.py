"""What a container's labels ask of the node it runs on. Pure.

| label | meaning |
| --- | --- |
| ``davit.node=NAME`` | this node |
| ``davit.constraint=EXPR[,EXPR…]`` | Swarm's expressions, ``key==value`` or ``key!=value``, all of which must hold |
| ``davit.affinity=EXPR[,EXPR…]`` | ``container==NAME``, ``image==REF``, ``volume==NAME``: beside it; ``!=``: away |
| ``davit.spread=node.labels.KEY`` | over the values of a label evenly |
| ``davit.pack=true`` | on the fullest node that has room, in the place of the emptiest |

``==~`` and ``!=~`` are wishes: they count where they can be had, and hinder nothing.

Source: SwarmKit, placement constraints; Docker Swarm (classic), "Filters".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from shared.docker.words import query_flag
from shared.errors import InvalidArgument

NODE, CONSTRAINT, AFFINITY = "davit.node", "davit.constraint", "davit.affinity"
SPREAD, PACK, RESCHEDULE = "davit.spread", "davit.pack", "davit.reschedule"
ON_NODE_FAILURE = "on-node-failure"

_EXPRESSION = re.compile(r"^\s*([A-Za-z0-9._/-]+)\s*(==|!=)(~?)\s*(.+?)\s*$")
_KEYS = ("node.id", "node.hostname", "node.role", "node.platform.os", "node.platform.arch")
_LABELS = ("node.labels.", "engine.labels.")
_AFFINITIES = ("container", "image", "volume")


@dataclass(frozen=True, slots=True)
class Expression:
    """key==value; equal: false for ``!=``; wish: whether it may fail."""

    key: str
    equal: bool
    value: str
    wish: bool = False

    def __str__(self) -> str:
        return f"{self.key}{'==' if self.equal else '!='}{'~' if self.wish else ''}{self.value}"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A container's labels, read.

    Attributes:
        spread: The label of nodes to spread over, such as ``zone``; empty for none.
    """

    node: str = ""
    constraints: tuple[Expression, ...] = ()
    affinities: tuple[Expression, ...] = ()
    spread: str = ""
    pack: bool = False
    reschedule: bool = False


def wanted(labels: Mapping[str, str]) -> Wanted:
    """Raises InvalidArgument naming the label that cannot be read."""
    spread = labels.get(SPREAD, "")
    if spread and not (spread.startswith("node.labels.") and spread.removeprefix("node.labels.")):
        raise _wrong(SPREAD, spread, "node.labels.KEY")
    reschedule = labels.get(RESCHEDULE, "")
    if reschedule not in ("", "off", ON_NODE_FAILURE):
        raise _wrong(RESCHEDULE, reschedule, f"{ON_NODE_FAILURE} or off")
    pack = labels.get(PACK, "")
    return Wanted(
        node=labels.get(NODE, ""),
        constraints=_expressions(CONSTRAINT, labels.get(CONSTRAINT, ""), constraint_key),
        affinities=_expressions(AFFINITY, labels.get(AFFINITY, ""), _affinity_key),
        spread=spread.removeprefix("node.labels."),
        pack=query_flag(pack) if pack else False,
        reschedule=reschedule == ON_NODE_FAILURE,
    )


def constraint_key(key: str) -> bool:
    """Whether nodes have something of that name to compare."""
    return key in _KEYS or any(key.startswith(prefix) and key != prefix for prefix in _LABELS)


def _affinity_key(key: str) -> bool:
    return key in _AFFINITIES


def _expressions(label: str, text: str, known: object) -> tuple[Expression, ...]:
    assert callable(known)
    found = []
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        match = _EXPRESSION.match(part)
        if match is None or not known(match[1]):
            expected = "KEY==VALUE or KEY!=VALUE" if match is None else "a key that nodes have"
            raise _wrong(label, part, expected)
        found.append(Expression(match[1], match[2] == "==", match[4], bool(match[3])))
    return tuple(found)


def _wrong(label: str, value: str, expected: str) -> InvalidArgument:
    return InvalidArgument(f"label {label}: {value!r} is not {expected}", field=f"Labels.{label}")


@dataclass(frozen=True, slots=True)
class NodeTraits:
    """What expressions compare."""

    id: str
    name: str
    role: str
    arch: str
    labels: Mapping[str, str] = field(default_factory=dict)
    engine_labels: Mapping[str, str] = field(default_factory=dict)

    def value(self, key: str) -> str:
        """Empty for a label that the node does not have, as in SwarmKit."""
        if key.startswith("node.labels."):
            return self.labels.get(key.removeprefix("node.labels."), "")
        if key.startswith("engine.labels."):
            return self.engine_labels.get(key.removeprefix("engine.labels."), "")
        own = {"node.id": self.id, "node.hostname": self.name, "node.role": self.role, "node.platform.os": "linux"}
        return own.get(key, self.arch)

    def holds(self, expression: Expression) -> bool:
        """Compared without regard to case, as in SwarmKit."""
        same = self.value(expression.key).lower() == expression.value.lower()
        return same == expression.equal


def unmet(traits: NodeTraits, expressions: Sequence[Expression]) -> Expression | None:
    """The first that must hold and does not."""
    return next((one for one in expressions if not one.wish and not traits.holds(one)), None)
