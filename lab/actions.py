"""What commands do to labs: under the lab's lock, one at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from lab.faults.keeping import keep, stop
from lab.lab import Lab
from lab.places import Places, existing
from lab.record import Record, locked
from lab.teardown import tear_down
from lab.topology.load import read
from shared.errors import Conflict

# For a command that is at work on the lab to come to its end.
_DOWN_PATIENCE_S = 20.0


def up(root: Path, name: str | None, file: Path | None) -> Iterator[str]:
    """Start a lab; lines to tell the user. Raises Conflict when another lab has the name."""
    if file is None:
        places = existing(root, name)
        record = None
    else:
        topology = read(file)
        places = Places(root, name or topology.name)
        source = topology.model_dump(mode="json", exclude_unset=True) | {"name": places.lab}
        if places.record.exists() and Record.read(places).source != source:
            raise Conflict(f"lab {places.lab} is there with another file: davit lab apply {file} changes it")
        record = None if places.record.exists() else Record(source)
    new = record is not None
    with locked(places):
        lab = Lab(places, record)
        try:
            lab.up()
            keep(lab)
        except BaseException:
            if new:
                tear_down(places)
            raise
    yield f"lab {places.lab} is ready: {', '.join(lab.topology.nodes)}"
    for manager in lab.topology.managers()[:1]:
        yield f"export DOCKER_HOST=unix://{places.socket(manager)}"


def apply(root: Path, name: str | None, file: Path) -> Iterator[str]:
    """Make a running lab as a file says; lines that tell what was done."""
    from lab.applying import apply as carry_out

    topology = read(file)
    places = existing(root, name or topology.name)
    after = topology.model_copy(update={"name": places.lab})
    with locked(places):
        lab = Lab(places)
        lab.up()  # what should run already is no difference
        other_faults = (after.faults, after.seed) != (lab.topology.faults, lab.topology.seed)
        lines = list(carry_out(lab, after).lines())
        if other_faults:
            stop(lab)
            keep(lab)
            lines.append("begin the timeline")
    yield from lines or ["nothing to do"]


def down(root: Path, name: str | None) -> None:
    """End a lab, also one whose record is gone. Raises NotFound."""
    places = Places(root, name) if name and (root / name).is_dir() else existing(root, name)
    with locked(places, patience_s=_DOWN_PATIENCE_S):  # a command that hangs must not keep a lab alive
        tear_down(places)


def on_nodes(places: Places, action: str, nodes: Iterable[str]) -> None:
    """`kill`, `pause`, `resume` or `restart` nodes, in this order."""
    with locked(places):
        lab = Lab(places)
        for node in map(lab.node, list(nodes)):
            getattr(lab, action)(node)


def on_links(places: Places, action: str, *names: str) -> None:
    """`cut`, `heal` or `isolate` by these names."""
    from lab.links import change

    with locked(places):
        lab = Lab(places)
        getattr(change, action)(lab, *names)
        lab.record.write(places)
        lab.wire_up()
        lab.record.write(places)


def change_link(places: Places, one: str, other: str, values: Mapping[str, object], *, both: bool) -> None:
    """Change a wire's parameters; no values reset it."""
    from lab.links.change import link

    with locked(places):
        lab = Lab(places)
        link(lab, one, other, values, both=both)
        lab.wire_up()
        lab.record.write(places)


def begin_faults(places: Places, *, again: bool) -> None:
    """Begin the timeline, or with `again` False end it where it is."""
    with locked(places):
        lab = Lab(places)
        stop(lab)
        if again:
            keep(lab)


def save(places: Places, file: Path) -> int:
    """Write a lab to a file; its size in bytes."""
    from lab.saving import save as write

    with locked(places):
        return write(Lab(places), file)


def load(root: Path, name: str | None, file: Path) -> Iterator[str]:
    """Make a lab of a file again, and start it; lines to tell the user."""
    from lab import saving

    places = Places(root, name or saving.name_in(file))
    if places.record.exists():
        raise Conflict(f"lab {places.lab} is there already: davit lab down first, or --lab with another name")
    with locked(places):
        try:
            lab, running = saving.unpack(places, file)
            lab.up()
            problems = saving.start_containers(lab, running)
            keep(lab)
        except BaseException:
            tear_down(places)
            raise
    yield f"lab {places.lab} is ready: {', '.join(lab.topology.nodes)}"
    yield from (f"not started: {problem}" for problem in problems)
