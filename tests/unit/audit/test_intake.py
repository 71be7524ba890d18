"""From a writer's spool to the audit service: each record once and in order, whoever is killed when."""

import os
import random

import orjson
import pytest

from services.audit.intake import Intake
from shared.auditing import spool as spools
from shared.auditing.recorder import Recorder, spooling
from shared.auditing.spool import Spool, boot_id
from shared.errors import Unavailable


@pytest.fixture
def spool(tmp_path):
    spool = Spool(tmp_path, "api")
    yield spool
    if spool._descriptor >= 0:
        kill(spool)


def kill(spool):
    """What the kernel does to the files of a process that it kills."""
    os.close(spool._descriptor)
    os.close(spool._lost)
    spool._descriptor = -1


def look_again(recorder):
    """Have the disk looked at before the next record."""
    recorder._sink._look_at = 0


def record(number, kind="begin"):
    return {"kind": kind, "request": f"r{number}", "n": number}


def write(spool, *numbers):
    for number in numbers:
        spool.write(orjson.dumps(record(number)))


def taken(intake, limit=1000):
    found = intake.collect(limit)
    intake.committed()
    return found


def numbers(found):
    return [one.record.get("n") for one in found]


def intake_of(path, seen=None, boot=None):
    return Intake(path, {} if seen is None else seen, boot_id() if boot is None else boot)


def test_records_come_in_order_with_their_numbers(tmp_path, spool):
    intake = intake_of(tmp_path)
    write(spool, 1, 2, 3)
    assert [(one.source, one.sequence, one.record["n"]) for one in taken(intake)] == [
        (spool.source, number, number) for number in (1, 2, 3)
    ]
    assert taken(intake) == []
    write(spool, 4)
    assert numbers(taken(intake)) == [4]


def test_what_was_taken_is_not_taken_again_by_the_next_service(tmp_path, spool):
    write(spool, 1, 2, 3)
    first = intake_of(tmp_path)
    first.collect(100)
    seen = {spool.source: 2}  # what the log has of it
    assert numbers(taken(intake_of(tmp_path, seen))) == [3]


def test_a_dead_writers_file_goes_when_all_of_it_is_safe(tmp_path, spool):
    write(spool, 1, 2)
    kill(spool)
    intake = intake_of(tmp_path)
    assert numbers(intake.collect(100)) == [1, 2]
    assert list(tmp_path.glob("*.spool"))
    intake.committed()
    assert list(tmp_path.iterdir()) == []


def test_a_living_writers_file_stays(tmp_path, spool):
    write(spool, 1)
    intake = intake_of(tmp_path)
    taken(intake)
    assert len(list(tmp_path.glob("*.spool"))) == 1


def test_requests_without_an_outcome_get_one_once(tmp_path):
    recorder = Recorder(spooling(tmp_path, "api"), "best-effort")
    recorder._telling = True  # there is no loop here
    for request in ("a", "b", "c"):
        recorder.received(request, {"kind": "received", "request": request, "action": {"verb": request}})
    recorder.complete("b", {"kind": "complete", "request": "b", "outcome": {"status": 200}})
    kill(recorder._sink)
    seen: dict[str, int] = {}
    found = intake_of(tmp_path, seen).collect(100)
    last = [one.record for one in found[-2:]]
    assert [(one["kind"], one["request"], one["outcome"]["status"]) for one in last] == [
        ("complete", "a", None),
        ("complete", "c", None),
    ]
    assert last[0]["action"] == {"verb": "a"}
    # Killed before the files were removed, the next service finds nothing new in them.
    assert taken(intake_of(tmp_path, seen)) == []
    assert list(tmp_path.iterdir()) == []


def test_a_record_that_was_cut_short_is_a_gap(tmp_path, spool):
    write(spool, 1, 2)
    os.pwrite(spool._descriptor, b'\x40\0\0\0abcd{"kin', spool._position)
    kill(spool)
    found = taken(intake_of(tmp_path))
    assert numbers(found[:2]) == [1, 2]
    assert found[2].record["kind"] == "gap"
    assert found[2].record["gap"]["count"] == 1
    assert len(found) == 3


def test_the_end_of_the_machine_is_a_gap_of_unknown_size(tmp_path, spool):
    write(spool, 1)
    kill(spool)
    found = taken(intake_of(tmp_path, boot="another"))
    assert [one.record["kind"] for one in found] == ["begin", "gap"]
    assert found[1].record["gap"]["count"] is None


def test_an_orderly_end_before_the_machines_is_none(tmp_path, spool):
    write(spool, 1)
    spool.close()
    found = taken(intake_of(tmp_path, boot="another"))
    assert [one.record["kind"] for one in found] == ["begin"]
    assert list(tmp_path.iterdir()) == []


def test_a_spool_goes_on_in_another_file_and_the_first_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(spools, "FILE_BYTES", 10_000)
    spool = Spool(tmp_path, "api")
    intake = intake_of(tmp_path)
    seen = []
    for number in range(1, 1001):
        write(spool, number)
        if number % 70 == 0:
            seen += numbers(taken(intake))
    kill(spool)
    seen += numbers(taken(intake))
    assert seen == list(range(1, 1001))
    assert list(tmp_path.iterdir()) == []


def test_the_requests_that_are_open_are_known_from_a_later_file(tmp_path, monkeypatch):
    monkeypatch.setattr(spools, "FILE_BYTES", 3000)
    recorder = Recorder(spooling(tmp_path, "api"), "best-effort")
    recorder._telling = True
    recorder.received("open", {"kind": "received", "request": "open"})
    for number in range(100):
        recorder.record(record(number))
    seen: dict[str, int] = {}
    taken(intake_of(tmp_path, seen))
    kill(recorder._sink)
    # A service that is started anew reads only what is left.
    found = taken(intake_of(tmp_path, seen))
    assert [(one.record["kind"], one.record["request"]) for one in found] == [("complete", "open")]


@pytest.mark.parametrize("seed", range(20))
def test_whoever_is_killed_each_record_is_taken_once_in_order(tmp_path, monkeypatch, seed):
    monkeypatch.setattr(spools, "FILE_BYTES", 4000)
    chance = random.Random(seed)
    kept, written = [], []
    seen: dict[str, int] = {}
    spool, intake = Spool(tmp_path, "api"), intake_of(tmp_path, {})
    for number in range(600):
        match chance.random():
            case one if one < 0.80:
                write(spool, number)
                written.append((spool.source, number))
            case one if one < 0.82:
                kill(spool)
                spool = Spool(tmp_path, "api")
            case one if one < 0.90:  # the service is killed after it has read, or after the log has it
                found = intake.collect(chance.randrange(1, 50))
                if chance.random() < 0.5:
                    kept += found
                    seen = dict(intake.taken)
                intake.close()
                intake = intake_of(tmp_path, dict(seen))
            case _:
                kept += intake.collect(chance.randrange(1, 50))
                seen = dict(intake.taken)
                intake.committed()
    kill(spool)
    while found := taken(intake):
        kept += found
    by_source: dict[str, list[int]] = {}
    for one in kept:
        by_source.setdefault(one.source, []).append(one.record["n"])
    expected: dict[str, list[int]] = {}
    for source, number in written:
        expected.setdefault(source, []).append(number)
    assert by_source == expected
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_keeps_room_for_what_ends_something(tmp_path, spool, monkeypatch):
    monkeypatch.setattr(spools, "is_full", lambda _: True)
    spool._look_at = 0
    with pytest.raises(Unavailable, match="the disk is full"):
        spool.write(b"{}")
    spool.write(orjson.dumps(record(1)), spare=True)
    assert numbers(taken(intake_of(tmp_path))) == [1]


def test_what_nobody_takes_is_limited(tmp_path, monkeypatch):
    monkeypatch.setattr(spools, "FILE_BYTES", 10_000)
    spool = Spool(tmp_path, "api", waiting_bytes=1)
    with pytest.raises(Unavailable, match="wait for the audit service"):
        write(spool, *range(1000))
    spool.write(b"{}", spare=True)
    kill(spool)


def test_what_was_lost_is_told_as_soon_as_that_is_possible(tmp_path, monkeypatch):
    recorder = Recorder(spooling(tmp_path, "api"), "best-effort")
    recorder._telling = True
    recorder.record(record(1))
    full = True
    monkeypatch.setattr(spools, "is_full", lambda _: full)
    look_again(recorder)
    for number in (2, 3, 4):
        recorder.record(record(number))
    intake = intake_of(tmp_path)
    assert numbers(taken(intake)) == [1]
    full = False
    look_again(recorder)
    recorder.record(record(5))
    gap, fifth = taken(intake)
    assert gap.record["gap"]["count"] == 3
    assert "the disk is full" in gap.record["gap"]["reason"]
    assert fifth.record["n"] == 5
    kill(recorder._sink)
    assert taken(intake) == []


def test_what_was_lost_is_told_when_the_one_who_knew_was_killed(tmp_path, monkeypatch):
    recorder = Recorder(spooling(tmp_path, "api"), "best-effort")
    recorder._telling = True
    recorder.record(record(1))
    monkeypatch.setattr(spools, "is_full", lambda _: True)
    look_again(recorder)
    for number in (2, 3):
        recorder.record(record(number))
    kill(recorder._sink)
    first, gap = taken(intake_of(tmp_path))
    assert (first.record["n"], gap.record["gap"]["count"]) == (1, 2)


def test_enforced_refuses_what_cannot_be_recorded_and_counts_what_has_happened(tmp_path, monkeypatch):
    recorder = Recorder(spooling(tmp_path, "api"), "enforced")
    recorder._telling = True
    recorder.received("a", {"kind": "received", "request": "a"})
    monkeypatch.setattr(spools, "is_full", lambda _: True)
    look_again(recorder)
    with pytest.raises(Unavailable, match="cannot be recorded, and so is not carried out"):
        recorder.received("b", {"kind": "received", "request": "b"})
    recorder.complete("a", {"kind": "complete", "request": "a"})
    kill(recorder._sink)
    found = [one.record for one in taken(intake_of(tmp_path))]
    assert [(one["kind"], one.get("request")) for one in found] == [
        ("received", "a"),
        ("gap", None),
        ("complete", "a"),
    ]
    assert (found[1]["gap"]["count"], found[1]["gap"]["refused"]) == (2, 1)


async def test_a_sync_covers_what_was_written_before_it(tmp_path, spool):
    write(spool, 1, 2)
    await spool.sync()
    assert spool._synced == 2
    await spool.sync()
