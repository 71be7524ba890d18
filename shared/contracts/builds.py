"""How the edge hands clients of BuildKit's protocol to the process that serves builds: over a socket of its machine."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

SOCKET = "builds.sock"
GREETING_END = b"\n"


class Greeting(BaseModel):
    """The first line on such a connection; the client's bytes follow.

    Attributes:
        kind: Which side calls: the client (``grpc``), or the engine (``session``).
        session_id: The client's name for its session.
        shared_key: Names the client's files across its builds.
        methods: What the client serves on its session.
    """

    kind: Literal["grpc", "session"]
    session_id: str = ""
    shared_key: str = ""
    methods: list[str] = Field(default_factory=list)


def socket_path(run_dir: Path) -> Path:
    """Where the process that serves builds listens, or somebody does who starts it."""
    return run_dir / SOCKET
