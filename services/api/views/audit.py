"""The audit log's JSON."""

from __future__ import annotations

from typing import Any

from shared.contracts.audit import Checkpoints, LogState, Proof, Sinks


def state(found: LogState) -> dict[str, Any]:
    return {
        "First": found.first,
        "Size": found.size,
        "Checkpoint": found.note,
        "Key": found.key,
        "Problem": found.problem,
    }


def checkpoints(found: Checkpoints) -> list[dict[str, Any]]:
    return [{"Size": size, "Note": note} for size, note in zip(found.sizes, found.notes, strict=True)]


def proof(found: Proof) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "Size": found.size,
        "Root": found.root,
        "Hashes": found.hashes,
        "Checkpoint": found.note,
    }
    if found.leaf:
        shown["Leaf"] = found.leaf
    if found.first_root:
        shown["FirstRoot"] = found.first_root
    return shown


def sinks(found: Sinks) -> list[dict[str, Any]]:
    return [
        {
            "Name": sink.name,
            "Type": sink.type,
            "Format": sink.format,
            "Position": sink.position,
            "Behind": sink.behind,
            "Failures": sink.failures,
            "NextAt": sink.next_at,
            "Problem": sink.problem,
            "Gone": sink.gone,
        }
        for sink in found.sinks
    ]
