"""The process that keeps to a lab's timeline: ``python -m lab.faults.keeper ROOT LAB``.

It writes what it has done, and when, to ``.keep/timeline.jsonl``; where it is, is there too, so that one that is
started again goes on and repeats nothing. Time counts from the first start, and does not stop while the keeper is away:
what was due then is done at once, in order.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lab.faults.plan import Action, known_of, plan
from lab.lab import Lab
from lab.links import change
from lab.links.wires import ALL, directions
from lab.places import Places
from lab.record import OFF, ON, PAUSED, locked
from shared.errors import DavitError, NotFound


def planned(lab: Lab) -> list[Action]:
    """The lab's timeline. Raises InvalidArgument."""
    return plan(lab.topology.faults, lab.topology.seed, known_of(lab.topology, lab.nets))


class Timeline:
    """What has been done of a plan, on file.

    Attributes:
        began: Unix time of the beginning; None before it.
        done: How many actions.
    """

    def __init__(self, keep: Path) -> None:
        self._file = keep / "timeline.jsonl"
        entries = list(self.entries())
        self.began: float | None = entries[0]["began"] if entries else None
        self.done = max(0, len(entries) - 1)

    def entries(self) -> Iterator[dict[str, Any]]:
        if self._file.exists():
            for line in self._file.read_text().splitlines():
                with contextlib.suppress(json.JSONDecodeError):  # cut short by a kill: it was not done
                    yield json.loads(line)

    def begin(self) -> float:
        if self.began is None:
            self.began = time.time()
            self._append({"began": self.began})
        return self.began

    def did(self, action: Action, problem: str) -> None:
        self.done += 1
        self._append({"at": round(action.at_s, 3), "did": str(action), "problem": problem, "when": time.time()})

    def _append(self, entry: dict[str, Any]) -> None:
        with self._file.open("a") as file:
            file.write(json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())


def carry_out(lab: Lab, action: Action) -> None:
    """Do one thing to a lab. Raises DavitError when it cannot be done now."""
    names = action.names
    if action.verb in ("kill", "pause", "resume", "restart"):
        _on_node(lab, action.verb, names[0])
        return
    if action.verb == "unlink":
        for key in directions(lab.nets, names[0], names[1]):
            lab.record.changes.parameters.pop("|".join(key), None)
    elif action.verb == "link":
        change.link(lab, names[0], names[1], action.parameters, both=True)
    elif action.verb == "heal":
        change.heal(lab, *(names if len(names) > 1 else (names[0], ALL)))
    else:
        getattr(change, action.verb)(lab, *names)
    lab.wire_up()
    lab.record.write(lab.places)


def _on_node(lab: Lab, verb: str, name: str) -> None:
    """Whoever is off already needs no second kill: plans that are drawn by lot do not know of each other."""
    state = lab.record.nodes.get(name, ON)
    idle = {"kill": state == OFF, "pause": state != ON, "resume": state != PAUSED, "restart": False}
    if not idle[verb]:
        getattr(lab, verb)(name)


def main(root: Path, name: str) -> int:
    places = Places(root, name)
    timeline = Timeline(places.keep)
    actions = planned(Lab(places))
    began = timeline.begin()
    for action in actions[timeline.done :]:
        time.sleep(max(0.0, began + action.at_s - time.time()))
        problem = ""
        with locked(places):
            if not places.record.exists():
                return 0  # the lab is gone
            try:
                carry_out(Lab(places), action)
            except (DavitError, OSError, NotFound) as error:
                problem = str(error)
            timeline.did(action, problem)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
