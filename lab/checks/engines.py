"""Nodes that are to be on are on, and every process of their engines lives."""

from __future__ import annotations

from collections.abc import Iterator

from lab.checks.view import View
from lab.faults.keeping import state
from lab.record import ON
from supervisor.state import EngineState


def check(view: View) -> Iterator[str]:
    """What does not run."""
    lab = view.lab
    running = lab.running()
    for name in lab.machines:
        if lab.record.nodes.get(name, ON) == ON and name not in running:
            yield f"{name} is to be on, and has no process"
    for name in view.engines:
        engine = EngineState.read(lab.places.node(name) / "run")
        if engine is None:
            yield f"{name}: its engine does not run"
            continue
        if engine.phase != "running":
            yield f"{name}: its engine is {engine.phase}"
        for process, known in engine.processes.items():
            if known.identity is None or not known.identity.alive or known.state != "ready":
                yield f"{name}: {process} is {known.state if known.pid else 'not there'} {known.problem}".rstrip()
    if lab.relay.needed and not lab.relay.running:
        yield "the relay does not run"
    timeline = state(lab)
    if timeline["done"] != timeline["planned"] and not timeline["running"]:
        yield "nobody keeps to the timeline"
