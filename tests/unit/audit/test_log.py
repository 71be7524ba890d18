"""The log on disk: appended, read, proved, rotated, taken up again after every kind of end."""

import os

import pytest

from services.audit.log import store
from services.audit.log.store import AuditLog
from shared.auditing.records import encoded
from shared.errors import InvalidArgument, NotFound
from shared.transparency import merkle
from shared.transparency.merkle import leaf_hash


def lines(first, count):
    return [encoded({"number": number, "text": "é" * (number % 40)}) for number in range(first, first + count)]


def filled(directory, count, batch=100):
    log = AuditLog(directory)
    log.open()
    append(log, count, batch)
    return log


def append(log, count, batch=100):
    while count:
        now = min(count, batch)
        log.append(lines(log.size, now))
        count -= now


def rotate(log):
    log.rotate()
    log.rotated(log.compress())


def all_of(log, first=0):
    found: list[bytes] = []
    while more := log.read(first + len(found), limit=300, limit_bytes=10_000):
        found += more
    return found


@pytest.mark.parametrize("count", [1, 255, 256, 257, 4096, 5000])
def test_what_was_appended_is_read_and_has_the_root_of_its_hashes(tmp_path, count):
    log = filled(tmp_path, count, batch=37)
    assert all_of(log) == lines(0, count)
    assert log.root() == log.root_at(count) == merkle.root_of(map(leaf_hash, lines(0, count)))
    log.close()


def test_reading_begins_at_any_number_and_ends_at_its_limits(tmp_path):
    log = filled(tmp_path, 700)
    assert log.read(511, limit=3, limit_bytes=10_000) == lines(511, 3)
    assert log.read(699, limit=10, limit_bytes=1) == lines(699, 1)
    assert log.read(700, limit=10, limit_bytes=1000) == []
    log.close()


def test_proofs_lead_to_roots_of_every_size(tmp_path):
    log = filled(tmp_path, 1100)
    rotate_at_group(log)
    append(log, 700)
    for size in (1, 255, 256, 257, 1000, 1280, log.size):
        root = log.root_at(size)
        for number in (0, size // 2, size - 1):
            proof = log.inclusion_proof(number, size)
            assert merkle.verify_inclusion(leaf_hash(lines(number, 1)[0]), number, size, proof, root)
        proof = log.consistency_proof(size, log.size)
        assert merkle.verify_consistency(size, log.size, proof, root, log.root())
    with pytest.raises(InvalidArgument):
        log.root_at(log.size + 1)
    with pytest.raises(InvalidArgument):
        log.inclusion_proof(5, 5)
    log.close()


def rotate_at_group(log):
    append(log, -log.size % 256)
    rotate(log)


def test_a_log_goes_on_where_it_was_saved_and_says_what_came_since(tmp_path):
    log = filled(tmp_path, 300)
    saved = log.saved()
    append(log, 50)
    log.close()
    again = AuditLog(tmp_path)
    assert [record["number"] for record in again.open(saved)] == list(range(300, 350))
    append(again, 500)
    assert again.root() == merkle.root_of(map(leaf_hash, lines(0, 850)))
    again.close()


def test_a_log_goes_on_without_anything_saved(tmp_path):
    log = filled(tmp_path, 1000)
    rotate_at_group(log)
    append(log, 77)
    size, root = log.size, log.root()
    log.close()
    again = AuditLog(tmp_path)
    assert [record["number"] for record in again.open()] == list(range(size - 77, size))
    assert (again.size, again.root()) == (size, root)
    again.close()


@pytest.mark.parametrize("torn", [b'{"number":300,"te', b'{"number":300}garbage\n', b"\0\0\0{}\n", b"\xff\xfe\n"])
def test_what_was_not_written_whole_is_overwritten(tmp_path, torn):
    log = filled(tmp_path, 300)
    saved, at = log.saved(), log._active.size_bytes
    log.close()
    with (tmp_path / "00000000000000000000.log").open("r+b") as file:
        file.seek(at)
        file.write(torn)
    again = AuditLog(tmp_path)
    assert again.open(saved) == []
    append(again, 20)
    assert all_of(again) == lines(0, 320)
    again.close()
    third = AuditLog(tmp_path)
    third.open(saved)
    assert all_of(third) == lines(0, 320)
    third.close()


def test_a_rotated_log_is_compressed_and_read_as_before(tmp_path):
    log = filled(tmp_path, 1024)
    log.rotate()
    assert all_of(log) == lines(0, 1024)
    log.rotated(log.compress())
    append(log, 10)
    assert all_of(log) == lines(0, 1034)
    assert sorted(path.name for path in tmp_path.glob("*.log*")) == [
        "00000000000000000000.log.zst",
        "00000000000000001024.log",
    ]
    log.close()


def test_a_crash_while_a_file_is_compressed_loses_nothing(tmp_path):
    log = filled(tmp_path, 1024)
    saved = log.saved()
    log.rotate()
    append(log, 10)
    log.close()
    again = AuditLog(tmp_path)
    assert len(again.open(saved)) == 10
    assert all_of(again) == lines(0, 1034)
    assert (tmp_path / "00000000000000000000.log.zst").exists()
    again.close()


def test_records_that_a_checkpoint_had_and_the_files_have_not_are_missed(tmp_path):
    log = filled(tmp_path, 300)
    saved, root = log.saved(), log.root()
    log.close()
    os.truncate(tmp_path / "00000000000000000000.log", 5000)
    again = AuditLog(tmp_path)
    again.open(saved)
    first, end = again.lost
    assert 0 < first < end == 300
    assert (again.size, again.root()) == (300, root)
    append(again, 300)
    assert again.root() == merkle.root_of(map(leaf_hash, lines(0, 600)))
    assert again.read(first - 1, limit=9, limit_bytes=1000) == lines(first - 1, 1)
    assert again.read(300, limit=1000, limit_bytes=100_000) == lines(300, 300)
    with pytest.raises(NotFound) as error:
        again.read(first, limit=1, limit_bytes=1000)
    assert error.value.detail["first"] == 300
    again.close()


def test_old_files_go_and_proofs_about_the_others_stay(tmp_path):
    log = filled(tmp_path, 1024)
    rotate(log)
    append(log, 1024)
    rotate(log)
    append(log, 100)
    root = log.root()
    assert log.remove_before(0, limit_bytes=1 << 30) == (0, 0)
    gone = log.remove_before(0, limit_bytes=log.disk_bytes - 1)
    assert gone == (0, 1024)
    assert log.first == 1024
    with pytest.raises(NotFound) as error:
        log.read(1023, limit=1, limit_bytes=1)
    assert error.value.detail["first"] == 1024
    assert merkle.verify_inclusion(
        leaf_hash(lines(1500, 1)[0]), 1500, log.size, log.inclusion_proof(1500, log.size), root
    )
    assert merkle.verify_consistency(1024, log.size, log.consistency_proof(1024, log.size), log.root_at(1024), root)
    log.close()
    again = AuditLog(tmp_path)
    again.open()
    assert (again.first, again.size, again.root()) == (1024, 2148, root)
    again.close()


def test_hints_are_the_beginnings_of_the_hashes(tmp_path):
    log = filled(tmp_path, 512)
    rotate(log)
    append(log, 40)
    assert log.hints(500, 30) == b"".join(leaf_hash(line)[:4] for line in lines(500, 30))
    log.close()


def test_a_file_is_rotated_at_the_end_of_a_group_only(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "SEGMENT_RECORDS", 300)
    log = filled(tmp_path, 299)
    assert not log.rotation_due
    append(log, 512 - 299)
    assert log.rotation_due
    log.close()
