"""How machines of each kind begin: an engine, the lab's database, the engine that runs the plain containers."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from lab.nodes.cgroups import ENGINE, Limits
from lab.nodes.join import EngineStart
from lab.nodes.machine import Machine
from lab.nodes.start import Starting, begin, bind, environment_of
from lab.topology.model import DATABASE_NODE

if TYPE_CHECKING:
    from lab.lab import Lab

RUN_DIR = "/run/davit"
# Where a node has its data: the same in every lab, since records have paths in them, and labs can be saved; and below
# no directory that Postgres, which does not run as root, may not enter.
DATA_DIR = "/run/davit-data"
# The engine of plain containers; no node can have the name.
HOST = ".host"


def environment() -> dict[str, str]:
    """Of processes in a node with an engine."""
    return environment_of(f"unix://{RUN_DIR}/docker.sock")


def begin_machine(lab: Lab, name: str) -> Starting:
    """Fork a machine's first process, in namespaces that are bound by now. Raises Internal."""
    directory = lab.places.node(name)
    for part in ("run", "data", "etc"):
        (directory / part).mkdir(parents=True, exist_ok=True, mode=0o711)
    start = write_files(lab, name)
    cgroup = lab.cgroup(name)
    cgroup.create()
    cgroup.child(ENGINE).create()
    node = lab.topology.nodes.get(name)
    cgroup.limit(Limits(node.memory, node.cpus) if node else Limits())
    machine = Machine(name.strip("."), cgroup, _directories(lab, name), directory / "etc" / "hosts")
    file = directory / "etc" / "daemon.json"
    own = environment()

    def become() -> NoReturn:
        if name == DATABASE_NODE:
            command = _database_command(lab)
            os.execve(command[0], command, own)
        from lab.nodes.warm import become_engine

        become_engine(start, Path(DATA_DIR), Path(RUN_DIR), file, own)

    starting = begin(name, machine, lab.hierarchies, become, own, start.beside, directory / "start.log")
    bind(lab.namespaces, starting)
    return starting


def write_files(lab: Lab, name: str) -> EngineStart:
    """Write what the machine finds in its directory for configuration; what its engine is started with."""
    etc = lab.places.node(name) / "etc"
    own = name in lab.topology.nodes
    start = lab.cluster.start_of(name, etc, DATA_DIR) if own else EngineStart(name.strip("."))
    for file, text in (start.files | {"daemon.json": json.dumps(start.daemon_json)}).items():
        (etc / file).write_text(text)
    write_hosts(lab, name)
    return start


def write_hosts(lab: Lab, name: str) -> None:
    """In place, since the node has the file mounted."""
    etc = lab.places.node(name) / "etc"
    if etc.exists():
        (etc / "hosts").write_text(lab.cluster.hosts(name))


def up_command(lab: Lab, name: str, start: EngineStart) -> list[str]:
    where = ["--data-root", DATA_DIR, "--run-dir", RUN_DIR]
    where += ["--config-file", str(lab.places.node(name) / "etc" / "daemon.json")]
    return [sys.executable, "-P", "-m", "cli", "up", "--detach", *where, *lab.cluster.arguments(start)]


def down_command() -> list[str]:
    return [sys.executable, "-P", "-m", "cli", "down", "--run-dir", RUN_DIR]


def _database_command(lab: Lab) -> list[str]:
    secret = lab.places.node(DATABASE_NODE) / "data" / "password"
    secret.touch(mode=0o600)
    secret.write_text(lab.record.secret)
    return [sys.executable, "-P", "-m", "lab.nodes.postgres", DATA_DIR, f"{DATA_DIR}/{secret.name}"]


def _directories(lab: Lab, name: str) -> dict[str, Path]:
    """What has a place of its own in the node; /run is new there, and hides a lab that is below it."""
    base = lab.places.base
    shown = {RUN_DIR: lab.places.node(name) / "run", DATA_DIR: lab.places.node(name) / "data"}
    return ({str(base): base} if base.is_relative_to("/run") else {}) | shown
