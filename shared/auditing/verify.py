"""Checking a log, or a part of it, as it was exported: offline, with nothing but its lines and the public key.

Each line is a record, or an object that says what it is:

    {"log": {"key": …, "first": N, "end": N, "before": [hash, …]}}    once, first; `before` stands for earlier records
    {"hints": {"first": N, "hashes": "…"}}                            four bytes of the hash of each of the next records
    {"checkpoint": "…"}                                               signed, over all records before it

What is signed is the tree's root, so a checkpoint that fits proves every byte of every record before it. Hints prove
nothing: they only tell which record was changed, once a checkpoint does not fit.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import orjson

from shared.errors import InvalidArgument
from shared.transparency.checkpoints import Checkpoint
from shared.transparency.merkle import Frontier, leaf_hash
from shared.transparency.notes import VerifierKey

HINT_BYTES = 4


@dataclass(slots=True)
class Findings:
    """What a check has found.

    Attributes:
        first, end: Numbers of the records that were read: the first, and the one after the last.
        proved: All records before this number are what was signed; None: nothing was.
        checkpoints: How many fitted.
        problems: What is wrong, in words; a log with any is not what was signed.
        gaps: Records that say that something was not recorded.
        time: Of the newest checkpoint that fits.
        key: By which key it was checked.
    """

    first: int = 0
    end: int = 0
    proved: int | None = None
    checkpoints: int = 0
    problems: list[str] = field(default_factory=list)
    gaps: list[dict[str, Any]] = field(default_factory=list)
    time: str = ""
    key: str = ""

    @property
    def unsigned(self) -> int:
        """Records behind the newest checkpoint, which nothing proves yet."""
        return self.end - (self.first if self.proved is None else max(self.proved, self.first))


class Verifier:
    """Checks lines in the order of an export.

    Args:
        key: Who must have signed; None: whom the export names, which proves only that it fits together.
        known: Checkpoints that were kept elsewhere, which the log must fit, too.
    """

    def __init__(self, key: VerifierKey | None = None, known: Iterable[Checkpoint] = ()) -> None:
        self.findings = Findings()
        self._key = key
        self._known = {checkpoint.size: checkpoint for checkpoint in known}
        self._frontier = Frontier()
        self._hints: bytes = b""
        self._hints_from = 0
        self._suspect: int | None = None
        self._number = 0
        self._announced = 0

    def check(self, lines: Iterable[bytes]) -> Findings:
        """Read all lines, up to the first that shows that something is wrong."""
        for line in lines:
            if self.findings.problems:
                break
            self._line(line)
        self._end()
        return self.findings

    def _line(self, line: bytes) -> None:
        try:
            value = orjson.loads(line)
        except orjson.JSONDecodeError:
            self._problem(f"record {self._number} cannot be read: it was changed")
            return
        if not isinstance(value, dict):
            self._problem(f"record {self._number} cannot be read: it was changed")
        elif "number" in value:
            self._record(value, line)
        elif "checkpoint" in value:
            self._checkpoint(str(value["checkpoint"]))
        elif "hints" in value:
            self._hints_from, self._hints = value["hints"]["first"], bytes.fromhex(value["hints"]["hashes"])
        elif "log" in value:
            self._begin(value["log"])
        else:
            self._problem(f"record {self._number} has no number: it was changed")

    def _begin(self, head: dict[str, Any]) -> None:
        first = int(head["first"])
        before = [bytes.fromhex(node) for node in head.get("before", ())]
        if len(before) != first.bit_count():
            raise InvalidArgument("the export does not say what was before its first record")
        self._frontier = Frontier(first, before)
        self._number = self.findings.first = self.findings.end = first
        self._announced = int(head.get("end", 0))
        if self._key is None:
            self._key = VerifierKey.parse(str(head["key"]))
        self.findings.key = str(self._key)

    def _record(self, record: dict[str, Any], line: bytes) -> None:
        number = record["number"]
        if number != self._number:
            self._problem(_displaced(self._number, number))
            return
        leaf = leaf_hash(line)
        at = (number - self._hints_from) * HINT_BYTES
        hint = self._hints[at : at + HINT_BYTES] if at >= 0 else b""
        if self._suspect is None and hint and any(hint) and hint != leaf[:HINT_BYTES]:
            self._suspect = number
        if record.get("kind") == "gap":
            self.findings.gaps.append(record)
        self._frontier.append(leaf)
        self._number = self.findings.end = number + 1
        if (known := self._known.get(self._number)) is not None:
            self._compare(known, "the checkpoint that was kept elsewhere")

    def _checkpoint(self, note: str) -> None:
        if self._key is None:
            raise InvalidArgument("no key to check the log with", field="key")
        try:
            checkpoint = Checkpoint.opened(note, self._key)
        except InvalidArgument as error:
            self._problem(f"the checkpoint behind record {self._number - 1} is not signed by the key: {error}")
            return
        if checkpoint.size != self._number:
            what = "missing" if checkpoint.size > self._number else "inserted"
            self._problem(f"a checkpoint over {checkpoint.size} records stands behind {self._number}: some were {what}")
            return
        if self._compare(checkpoint, f"the checkpoint of {checkpoint.time}"):
            self.findings.proved, self.findings.time = checkpoint.size, checkpoint.time
            self.findings.checkpoints += 1
            self._suspect = None

    def _compare(self, checkpoint: Checkpoint, what: str) -> bool:
        if self._frontier.root() == checkpoint.root:
            return True
        since = self.findings.first if self.findings.proved is None else self.findings.proved
        where = f"records {since} to {self._number - 1} are not what {what} says"
        if self._suspect is not None:
            where += f": record {self._suspect} was changed"
        elif self.findings.proved is None and self.findings.first:
            where += ", or those before them"
        self._problem(where)
        return False

    def _end(self) -> None:
        if self.findings.problems:
            return
        if self._number < self._announced:
            self._problem(f"records {self._number} to {self._announced - 1} are missing at the end")
            return
        for size in sorted(self._known):
            if size > self._number:
                self._problem(
                    f"the log ends at record {self._number - 1}, and had {size} records when a checkpoint that was kept"
                    " elsewhere was made: its end was removed"
                )
                return

    def _problem(self, text: str) -> None:
        self.findings.problems.append(text)


def _displaced(expected: int, found: Any) -> str:
    if isinstance(found, int) and found > expected:
        missing = f"record {expected} is" if found == expected + 1 else f"records {expected} to {found - 1} are"
        return f"{missing} missing: record {found} follows"
    return f"record {found} stands where record {expected} belongs: it was moved or inserted, or its number changed"
