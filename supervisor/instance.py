"""What tells an engine's names from those of others in the same network namespace: bridge, table, control group.

The engine of a machine's default data root has the plain names (``davit0``, ``davit``). Another one gets six random
characters when its data root is first used, and keeps them there: a hash of the path would change when the directory
is moved, and be the same for two that are in different mount namespaces.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from shared.config import EngineConfig

FILE = "instance"
_MARKS = ("db", "containers", "network", "layers")


def instance_of(data_root: Path) -> str:
    """The mark of the engine that this data root belongs to; decided if it is new. The caller holds its lock."""
    path = data_root / FILE
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        pass
    # One that was in use before there were such marks has the plain names in its records and in the kernel.
    plain = data_root == EngineConfig.model_fields["data_root"].default or any((data_root / m).exists() for m in _MARKS)
    chosen = "" if plain else secrets.token_hex(3)
    path.write_text(chosen + "\n")
    return chosen
