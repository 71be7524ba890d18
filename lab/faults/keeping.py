"""Starts and ends the lab's keeper, and tells how far it is."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

from lab.faults.keeper import Timeline, planned
from lab.lab import Lab
from lab.nodes.cgroups import Cgroup
from lab.topology.units import spell_duration


def _cgroup(lab: Lab) -> Cgroup:
    return lab.cgroup(".keep").child("keeper")


def keep(lab: Lab) -> None:
    """Have the timeline kept, if there is one that has not ended. Raises InvalidArgument when it makes no sense."""
    actions = planned(lab)
    cgroup = _cgroup(lab)
    if len(actions) <= Timeline(lab.places.keep).done or cgroup.pids():
        return
    cgroup.create()
    with (lab.places.keep / "keeper.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "lab.faults.keeper", str(lab.places.root), lab.places.lab],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/",
            preexec_fn=cgroup.join,  # noqa: PLW1509  # one thread
        )  # fmt: skip
    process.returncode = 0  # it outlives this process


def stop(lab: Lab) -> None:
    """End the keeper, and forget how far it was."""
    _cgroup(lab).kill()
    _cgroup(lab).remove()
    (lab.places.keep / "timeline.jsonl").unlink(missing_ok=True)


def state(lab: Lab) -> dict[str, object]:
    """How many actions there are, how many are done, and whether somebody does them."""
    actions = planned(lab)
    done = Timeline(lab.places.keep).done
    return {"planned": len(actions), "done": min(done, len(actions)), "running": bool(_cgroup(lab).pids())}


def lines(lab: Lab) -> Iterator[str]:
    """The timeline, with what became of each action."""
    outcomes = list(Timeline(lab.places.keep).entries())[1:]
    for index, action in enumerate(planned(lab)):
        outcome = "" if index >= len(outcomes) else f"  {outcomes[index]['problem'] or 'done'}"
        yield f"{spell_duration(round(action.at_s, 3)):>10}  {action}{outcome}"
