"""Starts the process that forwards ports of this machine to nodes, and ends it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from shared.errors import Conflict

if TYPE_CHECKING:
    from lab.lab import Lab

_PROGRAM = Path(__file__).with_name("forward.py")


def forward(lab: Lab) -> None:
    """Have the ports of the topology forwarded, and no others. Raises Conflict when one is in use."""
    wanted = [_parsed(name, text) for name, node in lab.topology.nodes.items() for text in node.ports]
    cgroup, file = lab.cgroup(".keep").child("ports"), lab.places.keep / "ports.json"
    text = json.dumps(wanted)
    if wanted and cgroup.pids() and file.exists() and file.read_text() == text:
        return
    cgroup.kill()
    cgroup.remove()
    if not wanted:
        file.unlink(missing_ok=True)
        return
    file.write_text(text)
    cgroup.create()
    with (lab.places.keep / "ports.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_PROGRAM), str(file), str(lab.places.namespaces)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, start_new_session=True, cwd="/",
            preexec_fn=cgroup.join, env=dict(os.environ),  # noqa: PLW1509  # one thread
        )  # fmt: skip
    assert process.stdout is not None
    with process.stdout:
        said = process.stdout.readline().decode().strip()
    process.returncode = 0  # it outlives this process
    if said != "ready":
        raise Conflict(f"ports cannot be forwarded: {said.removeprefix('error ') or 'see ports.log'}")


def _parsed(node: str, text: str) -> dict[str, object]:
    where, _, to = text.rpartition(":")
    host, _, port = where.rpartition(":")
    return {"host": host or "127.0.0.1", "port": int(port), "node": node, "to": int(to)}
