"""A log, exported and checked: as it is, and with one thing changed."""

from __future__ import annotations

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.auditing.records import encoded
from shared.auditing.verify import Verifier
from shared.transparency.checkpoints import Checkpoint
from shared.transparency.merkle import Frontier, leaf_hash
from shared.transparency.notes import Signer

NAME = "davit/test/audit"
SIGNER = Signer.of(NAME, Ed25519PrivateKey.generate())
COUNT, EACH = 300, 40


def record(number: int) -> bytes:
    return encoded({"number": number, "kind": "complete", "action": {"verb": "start", "object": f"web-{number % 7}"}})


def exported(records: list[bytes], *, signer: Signer = SIGNER, first: int = 0, before: Frontier | None = None):
    """The lines of an export, with a checkpoint behind each forty records and the last."""
    frontier = before or Frontier()
    head = {"key": str(signer.key), "first": first, "end": first + len(records)}
    head["before"] = [node.hex() for node in frontier.nodes]
    hints = "".join(leaf_hash(line)[:4].hex() for line in records)
    lines = [orjson.dumps({"log": head}), orjson.dumps({"hints": {"first": first, "hashes": hints}})]
    for number, line in enumerate(records, first + 1):
        lines.append(line)
        frontier.append(leaf_hash(line))
        if number % EACH == 0 or number == first + len(records):
            lines.append(orjson.dumps({"checkpoint": Checkpoint(NAME, number, frontier.root(), "then").signed(signer)}))
    return lines


RECORDS = [record(number) for number in range(COUNT)]
LINES = exported(RECORDS)
RECORD_PLACES = [at for at, line in enumerate(LINES) if b'"number"' in line]


def check(lines, *, key=SIGNER.key, known=()):
    return Verifier(key, known).check(lines)


def test_a_log_as_it_was_signed_is_proved():
    findings = check(LINES)
    assert findings.problems == []
    assert (findings.first, findings.end, findings.proved, findings.unsigned) == (0, COUNT, COUNT, 0)
    assert findings.checkpoints == 8
    assert check(LINES, key=None).problems == []


def test_a_part_of_a_log_is_proved_with_what_stands_for_the_rest():
    before = Frontier()
    for line in RECORDS[:120]:
        before.append(leaf_hash(line))
    lines = exported(RECORDS[120:], first=120, before=before)
    findings = check(lines)
    assert findings.problems == []
    assert (findings.first, findings.proved) == (120, COUNT)


@settings(max_examples=150)
@given(data=st.data())
def test_a_changed_byte_is_found_with_its_record(data):
    place = data.draw(st.sampled_from(RECORD_PLACES))
    line = LINES[place]
    at = data.draw(st.integers(0, len(line) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda one: one not in (line[at], 0x0A)))
    changed = line[:at] + bytes([byte]) + line[at + 1 :]
    findings = check([*LINES[:place], changed, *LINES[place + 1 :]])
    number = orjson.loads(line)["number"]
    assert findings.problems
    assert any(str(number) in problem for problem in findings.problems)


@settings(max_examples=60)
@given(data=st.data())
def test_a_missing_record_is_found(data):
    place = data.draw(st.sampled_from(RECORD_PLACES))
    findings = check([*LINES[:place], *LINES[place + 1 :]])
    assert findings.problems


@settings(max_examples=60)
@given(data=st.data())
def test_a_record_elsewhere_is_found(data):
    place, other = data.draw(st.lists(st.sampled_from(RECORD_PLACES), min_size=2, max_size=2, unique=True))
    lines = list(LINES)
    lines[place], lines[other] = lines[other], lines[place]
    assert check(lines).problems


@settings(max_examples=60)
@given(data=st.data())
def test_an_inserted_record_is_found(data):
    place = data.draw(st.sampled_from(RECORD_PLACES))
    number = data.draw(st.integers(0, COUNT))
    assert check([*LINES[:place], record(number), *LINES[place:]]).problems


def test_records_that_were_numbered_anew_are_found():
    """Whoever removes one and numbers the others again has no key to sign that with."""
    shorter = [record(number) for number in range(COUNT - 1)]
    lines = exported(shorter, signer=Signer.of(NAME, Ed25519PrivateKey.generate()))
    findings = check(lines)
    assert "not signed by the key" in findings.problems[0]


def test_a_log_that_was_written_anew_with_the_key_does_not_fit_what_was_kept_elsewhere():
    frontier = Frontier()
    for line in RECORDS[:100]:
        frontier.append(leaf_hash(line))
    kept = Checkpoint(NAME, 100, frontier.root())
    other = [encoded({"number": number, "kind": "complete"}) for number in range(COUNT)]
    assert check(exported(other)).problems == []
    assert "kept elsewhere" in check(exported(other), known=[kept]).problems[0]
    assert check(LINES, known=[kept]).problems == []


def test_an_end_that_was_removed_with_its_checkpoints_is_found_by_what_was_kept_elsewhere():
    kept = Checkpoint(NAME, COUNT, bytes(32))
    assert check(exported(RECORDS[:200])).problems == []
    assert "its end was removed" in check(exported(RECORDS[:200]), known=[kept]).problems[0]


def test_an_export_that_is_cut_short_is_no_log():
    assert "missing at the end" in check(LINES[:100]).problems[0]


def test_newer_records_than_the_last_checkpoint_are_not_proved():
    findings = check(LINES[:-1])
    assert findings.problems == []
    assert (findings.proved, findings.unsigned) == (280, 20)


def test_gaps_are_told():
    gap = encoded({"number": 1, "kind": "gap", "gap": {"count": 3, "reason": "the disk was full"}})
    findings = check(exported([record(0), gap, record(2)]))
    assert findings.problems == []
    assert [one["gap"]["count"] for one in findings.gaps] == [3]


@pytest.mark.parametrize("line", [b"[]", b"{}", b'"text"', b'{"number":"0"}'])
def test_what_is_no_line_of_a_log_is_found(line):
    assert check([*LINES[:5], line, *LINES[5:]]).problems
