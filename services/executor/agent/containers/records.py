"""What a node knows of each container, on its own disk: enough to run it, restart it and report on it alone.

One directory per container, ``<data>/containers/<id>/``::

    record.json       NodeRecord: the order, and what became of it (atomic replace)
    exit.json         the shim's exit record of the latest generation
    <id>-json.log     the log
    upper/ work/      the writable layer of the overlay
    hosts hostname resolv.conf
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import shutil
import time
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

from services.executor.agent.shims.runtimes import ForeignRuntime
from shared.contracts.node import ContainerOrder, ContainerReport, ExitRecord, InventoryItem
from shared.errors import Internal, NotFound

log = logging.getLogger(__name__)

SETTLE_S = 1.0
PATHS_KEPT = 128
DELETE_ATTEMPTS = 10
DELETE_PAUSE_S = 0.02

RecordStatus = Literal["created", "starting", "running", "paused", "restarting", "exited"]


class NodeRecord(BaseModel):
    """A container on this node.

    Attributes:
        manually_stopped: A user stopped or killed it; it is not restarted by policy.
        restart_count: Restarts by policy since the order; the order's own count is the start value.
        unreported: Whether the latest exit has not been acknowledged by control yet.
        owed: Exits before that one, each followed by a restart, that have not been acknowledged either.
        runtime: What it was last started with; None for davit's own.
        cgroup: Its control group's path since its last start; empty before.
    """

    order: ContainerOrder
    status: RecordStatus = "created"
    pid: int = 0
    shim_pid: int = 0
    started_at_ns: int = 0
    restart_count: int = 0
    manually_stopped: bool = False
    exit: ExitRecord | None = None
    unreported: bool = False
    owed: list[ExitRecord] = Field(default_factory=list)
    runtime: ForeignRuntime | None = None
    cgroup: str = ""
    run: int = 0
    """Counts process launches within a generation: the order's start, then each restart by policy."""

    @property
    def id(self) -> str:
        return self.order.id

    def inventory_item(self) -> InventoryItem:
        status = "running" if self.status == "starting" else self.status
        return InventoryItem(
            id=self.id,
            generation=self.order.generation,
            start_key=self.order.start_key,
            status=status,
            pid=self.pid,
            started_at_ns=self.started_at_ns,
            restart_count=self.restart_count,
            exit=self.exit,
        )


@dataclass(frozen=True)
class ContainerPaths:
    """Where a container's files are on this node."""

    directory: Path
    socket: Path

    @cached_property
    def record(self) -> Path:
        return self.directory / "record.json"

    @cached_property
    def upper(self) -> Path:
        return self.directory / "upper"

    @cached_property
    def work(self) -> Path:
        return self.directory / "work"

    @cached_property
    def exit(self) -> Path:
        return self.directory / "exit.json"

    @cached_property
    def log(self) -> Path:
        return self.directory / f"{self.directory.name}-json.log"

    @cached_property
    def hosts(self) -> Path:
        return self.directory / "hosts"

    @cached_property
    def hostname(self) -> Path:
        return self.directory / "hostname"

    @cached_property
    def resolv_conf(self) -> Path:
        return self.directory / "resolv.conf"


@dataclass(frozen=True, slots=True)
class ExecPaths:
    """Of a further process in a container: its shim's socket, and the exit record that the shim leaves."""

    socket: Path
    exit: Path

    def unlink(self) -> None:
        self.socket.unlink(missing_ok=True)
        self.exit.unlink(missing_ok=True)


class NodeRecords:
    """The records of all containers of this node, in memory and on disk.

    Attributes:
        rebooted: Nothing of what the records say can still run: the run directory of before is gone.
    """

    def __init__(self, data_root: Path, run_dir: Path) -> None:
        self._root = data_root / "containers"
        self._sockets = run_dir / "s"
        self._records: dict[str, NodeRecord] = {}
        self._unwritten: set[str] = set()
        self.rebooted = False
        # When what is put off is to be written; the first in first.
        self._settling: dict[str, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        # For those in work, which are asked for a dozen times in a start.
        self.paths = lru_cache(maxsize=PATHS_KEPT)(self._paths)

    def load(self) -> None:
        """Read what an earlier agent left. A directory without a readable record was never acknowledged."""
        self._root.mkdir(mode=0o710, parents=True, exist_ok=True)
        self.rebooted = not self._sockets.exists()
        self._sockets.mkdir(mode=0o700, parents=True, exist_ok=True)
        for directory in self._root.iterdir():
            try:
                data = (directory / "record.json").read_bytes()
            except FileNotFoundError:
                continue
            record = NodeRecord.model_validate_json(data)
            self._records[record.id] = record

    def _paths(self, container_id: str) -> ContainerPaths:
        return ContainerPaths(self._root / container_id, self._sockets / f"{container_id[:16]}.sock")

    def exec_paths(self, container_id: str, exec_id: str) -> ExecPaths:
        return self._exec_paths("exec", container_id, exec_id)

    def probe_paths(self, container_id: str, probe_id: str) -> ExecPaths:
        """Of a health probe: an exec that nobody but this agent waits for."""
        return self._exec_paths("probe", container_id, probe_id)

    def _exec_paths(self, kind: str, container_id: str, exec_id: str) -> ExecPaths:
        socket = self._sockets / f"{kind[0]}{exec_id[:16]}.sock"
        return ExecPaths(socket, self.paths(container_id).directory / f"{kind}-{exec_id}.json")

    def exec_sockets(self) -> list[Path]:
        """Sockets of execs that an earlier agent has started; some may be of shims that are gone."""
        return list(self._sockets.glob(f"e{'?' * 16}.sock"))

    def probe_sockets(self) -> list[Path]:
        """As `exec_sockets`, of health probes."""
        return list(self._sockets.glob(f"p{'?' * 16}.sock"))

    def ended_execs(self) -> list[tuple[str, str]]:
        """(container id, exec id) of the execs that have left an exit record."""
        found = ((one, file) for one in self._records for file in self.paths(one).directory.glob("exec-*.json"))
        return [(one, file.stem.removeprefix("exec-")) for one, file in found]

    def ended_probes(self) -> list[Path]:
        """The exit records of health probes."""
        return [file for one in self._records for file in self.paths(one).directory.glob("probe-*.json")]

    def get(self, container_id: str) -> NodeRecord:
        record = self._records.get(container_id)
        if record is None:
            raise NotFound(f"No such container: {container_id}")
        return record

    def find(self, container_id: str) -> NodeRecord | None:
        return self._records.get(container_id)

    def all(self) -> list[NodeRecord]:
        return list(self._records.values())

    def save(self, record: NodeRecord) -> None:
        """Write a record: replaced atomically, so that a crash leaves the old one or the new one."""
        paths = self.paths(record.id)
        temporary = paths.directory / "record.json.tmp"
        data = record.model_dump_json(by_alias=True, exclude_none=True).encode()
        try:
            try:
                temporary.write_bytes(data)
            except FileNotFoundError:
                paths.directory.mkdir(mode=0o710, parents=True)
                temporary.write_bytes(data)
            os.replace(temporary, paths.record)
        except OSError as error:
            raise Internal(f"the record of container {record.id} cannot be written: {error}") from error
        self._records[record.id] = record
        self._settling.pop(record.id, None)

    def keep(self, record: NodeRecord) -> None:
        """Write down what has happened already; when the disk does not take it, with `catch_up`.

        Until then a killed agent forgets it, and finds out again from shims and their exit records.
        """
        self._records[record.id] = record
        try:
            self.save(record)
        except Internal as error:
            if record.id not in self._unwritten:
                log.warning("%s; trying again", error)
            self._unwritten.add(record.id)
        else:
            self._unwritten.discard(record.id)

    def settle(self, record: NodeRecord) -> None:
        """Write down within `SETTLE_S` what a next agent would find out by itself, from shims and exit records.

        A container that is gone by then is written once, at its start.
        """
        self._records[record.id] = record
        loop = asyncio.get_running_loop()
        self._settling.setdefault(record.id, loop.time() + SETTLE_S)
        if self._timer is None:
            self._timer = loop.call_later(SETTLE_S, self._settle_due)

    def _settle_due(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None
        for container_id, due in list(self._settling.items()):
            if due > loop.time():
                self._timer = loop.call_at(due, self._settle_due)
                return
            self._settle(container_id)

    async def acknowledged(self, report: ContainerReport) -> None:
        """Control has committed a report: the record need not keep it any more."""
        record = self.find(report.id)
        if record is None or report.exit is None:
            return
        if report.exit in record.owed:
            record.owed.remove(report.exit)
        elif record.exit == report.exit and record.unreported:
            record.unreported = False
        else:
            return
        self.settle(record)

    def settle_all(self) -> None:
        """Write down now what `settle` has put off."""
        for container_id in list(self._settling):
            self._settle(container_id)

    def _settle(self, container_id: str) -> None:
        self._settling.pop(container_id, None)
        record = self._records.get(container_id)
        if record is not None:
            self.keep(record)

    def catch_up(self) -> None:
        """Write what the disk did not take before."""
        for container_id in list(self._unwritten):
            record = self._records.get(container_id)
            if record is None:
                self._unwritten.discard(container_id)
            else:
                self.keep(record)

    def delete(self, container_id: str) -> None:
        """Remove the directory of a container that was forgotten.

        The record goes first: what is left then is nobody's and is swept. A shim that is just ending may still write
        its last file into it, so the rest is tried again for a moment.

        Raises:
            Internal: It cannot be removed.
        """
        paths = self.paths(container_id)
        paths.record.unlink(missing_ok=True)
        paths.socket.unlink(missing_ok=True)
        for attempt in range(DELETE_ATTEMPTS):
            try:
                shutil.rmtree(paths.directory)
            except FileNotFoundError:
                if not paths.directory.exists():
                    return
            except OSError as error:
                if error.errno != errno.ENOTEMPTY or attempt + 1 == DELETE_ATTEMPTS:
                    raise Internal(f"the files of container {container_id} cannot be removed: {error}") from error
            else:
                return
            time.sleep(DELETE_PAUSE_S)

    def forget(self, container_id: str) -> None:
        """Drop the record from memory, so that nobody saves it again."""
        self._records.pop(container_id, None)
        self._settling.pop(container_id, None)
