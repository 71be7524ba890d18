"""What the engine's processes tell each other, and `davit status`, through files in the run directory.

``engine.lock``   held (flock) by the guardian and the supervisor as long as one of them lives
``engine.json``   the supervisor's view: its processes and where bus and database are; gone after an orderly end
``nats.json``     the embedded bus's address, kept across restarts of the supervisor so that clients find it again
"""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from supervisor.process import Identity


@dataclass
class ProcessState:
    """One process of the engine. state: starting, ready, waiting (for its next start), stopped."""

    pid: int = 0
    start: int = 0
    state: str = "starting"
    restarts: int = 0
    since: float = 0.0
    problem: str = ""

    @property
    def identity(self) -> Identity | None:
        return Identity(self.pid, self.start) if self.pid else None


@dataclass
class EngineState:
    """The engine as its supervisor knows it. `phase`: starting, running, stopping."""

    phase: str = "starting"
    version: str = ""
    node: str = ""
    data_root: str = ""
    run_dir: str = ""
    hosts: list[str] = field(default_factory=list)
    nats_url: str = ""
    nats_embedded: bool = True
    database: str = ""
    started: float = 0.0
    processes: dict[str, ProcessState] = field(default_factory=dict)

    def write(self, run_dir: Path) -> None:
        """Replace the file atomically."""
        write_json(run_dir / "engine.json", asdict(self))

    @classmethod
    def read(cls, run_dir: Path) -> EngineState | None:
        """The state on file; None when there is none."""
        values = read_json(run_dir / "engine.json")
        if values is None:
            return None
        processes = {name: ProcessState(**entry) for name, entry in values.pop("processes", {}).items()}
        return cls(**values, processes=processes)


def read_json(path: Path) -> dict[str, Any] | None:
    try:
        values: dict[str, Any] = json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return values


def write_json(path: Path, values: dict[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(values, file)
    temporary.rename(path)


def remove_state(run_dir: Path) -> None:
    (run_dir / "engine.json").unlink(missing_ok=True)


class EngineLock:
    """The lock of a directory; the descriptor is inherited by fork, and the lock lasts as long as any holder."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "engine.lock"
        self._descriptor = -1

    @property
    def descriptor(self) -> int:
        return self._descriptor

    def acquire(self) -> bool:
        """Take the lock; False when another engine has it."""
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            return False
        return True

    def close(self) -> None:
        """Let go of this process's share of the lock."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
