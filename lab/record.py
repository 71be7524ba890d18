"""What a lab knows of itself from one command to the next: one JSON file, replaced as a whole."""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from lab.links.wires import Changes
from lab.links.wires import parameters as spelled_parameters
from lab.places import Places
from lab.topology.check import checked
from lab.topology.impairment import Impairment
from lab.topology.model import Topology
from shared.errors import Internal
from supervisor.state import read_json, write_json

ON, OFF, PAUSED = "on", "off", "paused"


@dataclass
class Record:
    """One lab.

    Attributes:
        source: The topology as JSON.
        choices: Addresses and interfaces that were given out; see `lab.topology.wiring`.
        nodes: What each is to be: on, off, paused.
        queues: The queueing disciplines that devices have, spelled out, by device.
        single_segments: ``node|interface`` of those that send no more than a wire's frame at a time.
        secret: The password of the lab's bus.
    """

    source: dict[str, Any]
    choices: dict[str, str] = field(default_factory=dict)
    changes: Changes = field(default_factory=Changes)
    nodes: dict[str, str] = field(default_factory=dict)
    queues: dict[str, str] = field(default_factory=dict)
    single_segments: list[str] = field(default_factory=list)
    secret: str = field(default_factory=lambda: secrets.token_hex(12))
    created: float = field(default_factory=time.time)

    @property
    def topology(self) -> Topology:
        return checked(self.source)

    def write(self, places: Places) -> None:
        values = {
            "source": self.source,
            "choices": self.choices,
            "parameters": spelled_parameters(self.changes.parameters),
            "cuts": sorted(self.changes.cuts),
            "nodes": self.nodes,
            "queues": self.queues,
            "single_segments": self.single_segments,
            "secret": self.secret,
            "created": self.created,
        }
        write_json(places.record, values)

    @classmethod
    def read(cls, places: Places) -> Record:
        """The lab's record. Raises Internal when it is damaged."""
        values = read_json(places.record)
        if values is None:
            raise Internal(f"{places.record} cannot be read; davit lab down removes what is left of the lab")
        parameters = {key: Impairment.model_validate(value) for key, value in values.pop("parameters").items()}
        return cls(changes=Changes(parameters, set(values.pop("cuts"))), **values)


@contextmanager
def locked(places: Places, *, patience_s: float | None = None) -> Iterator[None]:
    """One command at a time changes a lab; others wait.

    Args:
        patience_s: Go on after so long, whoever holds the lock; None waits for ever.
    """
    places.base.mkdir(parents=True, exist_ok=True, mode=0o711)
    descriptor = os.open(places.base / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if patience_s is None:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        else:
            _try_for(descriptor, patience_s)
        yield
    finally:
        os.close(descriptor)


def _try_for(descriptor: int, patience_s: float) -> None:
    give_up_at = time.monotonic() + patience_s
    while time.monotonic() < give_up_at:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.05)
        else:
            return
