"""Checkpoints: what a log had, and when, in a note that its key has signed.

Source: C2SP tlog-checkpoint; the time is an extension line of ours.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass

from shared.errors import InvalidArgument
from shared.transparency.merkle import HASH_BYTES
from shared.transparency.notes import Signer, VerifierKey, decode_base64, open_note

_TIME = "time "


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Attributes: origin: the log's name. root: over its first `size` records. time: RFC 3339."""

    origin: str
    size: int
    root: bytes
    time: str = ""

    def text(self) -> str:
        lines = [self.origin, str(self.size), base64.b64encode(self.root).decode()]
        if self.time:
            lines.append(_TIME + self.time)
        return "\n".join(lines) + "\n"

    def signed(self, signer: Signer) -> str:
        return signer.note(self.text())

    @classmethod
    def opened(cls, note: str, key: VerifierKey) -> Checkpoint:
        """The checkpoint in a note. Raises InvalidArgument when it is not of this key or cannot be read."""
        return cls.parse(open_note(note, key))

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """Raises InvalidArgument."""
        lines = text.rstrip("\n").split("\n")
        if len(lines) < 3 or not lines[1].isdecimal():
            raise InvalidArgument("not a checkpoint: it has no size")
        root = decode_base64(lines[2], "the checkpoint's root")
        if len(root) != HASH_BYTES:
            raise InvalidArgument("not a checkpoint: its root is not a SHA-256 hash")
        time = next((line.removeprefix(_TIME) for line in lines[3:] if line.startswith(_TIME)), "")
        return cls(lines[0], int(lines[1]), root, time)
