"""What a file's `faults` come to: moments and actions, the same for the same seed. Pure.

::

    at 10s: cut a-b for 30s                 at a moment
    at 40s..60s: kill any worker for 10s    at a moment drawn by lot; a node drawn by lot
    every 20s..40s: isolate c for 5s        again and again, as long as the plan lasts

Actions: ``cut a-b``, ``isolate a``, ``kill a``, ``pause a``, ``restart a``, ``link a-b delay 20ms loss 5%``; each with
``for TIME`` is undone after it: healed, started again, resumed, set back.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from lab.links.wires import named_pair
from lab.topology.impairment import Impairment
from lab.topology.model import DATABASE_NODE, Topology
from lab.topology.units import duration
from lab.topology.wiring import Net
from shared.errors import InvalidArgument

# `every` goes on for so long.
LASTS_S = 3600.0
_SHORTEST_PAUSE_S = 0.1
_WHEN = re.compile(r"(?P<word>at|every) (?P<first>\S+?)(\.\.(?P<last>\S+))?")
_UNDO = {"cut": "heal", "isolate": "heal", "kill": "restart", "pause": "resume", "link": "unlink"}
_ON_NODES = ("isolate", "kill", "pause", "restart")


@dataclass(frozen=True)
class Action:
    """One thing to do to a lab.

    Attributes:
        verb: cut, heal, isolate, kill, pause, resume, restart, link, unlink.
        names: Two for cut, link and what undoes them; else one.
        parameters: Of a link, as the file spells them.
        group: What belongs together: an action, and what undoes it.
    """

    at_s: float
    verb: str
    names: tuple[str, ...]
    parameters: dict[str, str] = field(default_factory=dict)
    group: int = 0

    def __str__(self) -> str:
        words = " ".join(f"{name} {value}" for name, value in self.parameters.items())
        return f"{self.verb} {'-'.join(self.names)}{' ' + words if words else ''}"


@dataclass(frozen=True)
class Known:
    """The names that faults may use: nodes by role, and what can be named as the other end of a link."""

    roles: dict[str, str]
    pairs: list[tuple[str, str]]
    ends: list[str]


def known_of(topology: Topology, nets: list[Net]) -> Known:
    """What a topology's faults may name."""
    roles: dict[str, str] = {name: node.role for name, node in topology.nodes.items()}
    if topology.database == "postgres":
        roles[DATABASE_NODE] = "database"
    pairs = [(net.ports[0].node, net.ports[1].node) for net in nets if net.is_link]
    pairs += [(port.node, net.name) for net in nets if not net.is_link for port in net.ports]
    return Known(roles, pairs, [*roles, *(net.name for net in nets if not net.is_link)])


def plan(faults: list[dict[str, str]], seed: int, known: Known) -> list[Action]:
    """All actions in the order of time. Raises InvalidArgument, whose `field` is ``faults.INDEX``."""
    actions: list[Action] = []
    for index, entry in enumerate(faults):
        # A generator each: a fault that is added leaves what the others draw as it was.
        chance = random.Random(f"{seed}|{index}|{sorted(entry.items())}")
        for when, what in entry.items():
            try:
                for at_s in _moments(str(when), chance):
                    actions.extend(_actions(str(what), at_s, known, chance, len(actions)))
            except (ValueError, InvalidArgument) as error:
                raise InvalidArgument(f"{error}", field=f"faults.{index}") from error
    return sorted(actions, key=lambda action: action.at_s)


def _moments(text: str, chance: random.Random) -> Iterator[float]:
    match = _WHEN.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not of the form `at 10s`, `at 10s..20s` or `every 10s..20s`")
    first = duration(match["first"])
    last = duration(match["last"]) if match["last"] else first
    if last < first:
        raise ValueError(f"{text!r} ends before it begins")
    if match["word"] == "at":
        yield chance.uniform(first, last)
        return
    if first < _SHORTEST_PAUSE_S:
        raise ValueError(f"{text!r}: {_SHORTEST_PAUSE_S:g}s is the shortest pause between one time and the next")
    at_s = 0.0
    while (at_s := at_s + chance.uniform(first, last)) <= LASTS_S:
        yield at_s


def _actions(text: str, at_s: float, known: Known, chance: random.Random, group: int) -> Iterator[Action]:
    words = text.split()
    undo_after: float | None = None
    if len(words) >= 2 and words[-2] == "for":
        first, _, last = words[-1].partition("..")
        undo_after = chance.uniform(duration(first), duration(last or first))
        words = words[:-2]
    if len(words) < 2:
        raise ValueError(f"{text!r} does not say what is done to what, as `cut a-b` does")
    verb, rest = words[0], words[1:]
    names, rest = _names(verb, rest, known, chance)
    parameters = _parameters(rest) if verb == "link" else {}
    if rest and verb != "link":
        raise ValueError(f"{text!r}: {' '.join(rest)} is not understood")
    yield Action(at_s, verb, names, parameters, group)
    if undo_after is not None:
        if verb not in _UNDO:
            raise ValueError(f"{text!r}: {verb} cannot be undone after a time")
        yield Action(at_s + undo_after, _UNDO[verb], names, {}, group)


def _names(verb: str, words: list[str], known: Known, chance: random.Random) -> tuple[tuple[str, ...], list[str]]:
    if verb in ("cut", "link"):
        if words[:2] == ["any", "link"]:
            if not known.pairs:
                raise ValueError("there is no link to choose from")
            return chance.choice(known.pairs), words[2:]
        return named_pair(words[0], known.ends), words[1:]
    if verb not in _ON_NODES:
        raise ValueError(f"{verb!r} is none of cut, link, {', '.join(_ON_NODES)}")
    if words[0] == "any" and len(words) > 1:
        chosen = [name for name, role in known.roles.items() if words[1] in ("node", role)]
        if not chosen:
            raise ValueError(f"there is no {words[1]} to choose from")
        return (chance.choice(chosen),), words[2:]
    if words[0] not in known.roles:
        raise ValueError(f"there is no node {words[0]}")
    return (words[0],), words[1:]


def _parameters(words: list[str]) -> dict[str, str]:
    if not words or len(words) % 2:
        raise ValueError("link wants parameters, as `delay 20ms loss 5%`")
    values = dict(zip(words[::2], words[1::2], strict=True))
    Impairment.model_validate(values)
    return values
