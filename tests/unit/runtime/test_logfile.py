"""Docker's json-file form."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.executor.runtime.errors import InvalidSpec
from services.executor.runtime.shim.logfile import LINE_BYTES, JsonLog, LineSplitter


def test_lines_and_parts() -> None:
    splitter = LineSplitter()
    assert splitter.feed(b"one\ntw") == [b"one\n"]
    assert splitter.feed(b"o\n\n") == [b"two\n", b"\n"]
    long = b"x" * (LINE_BYTES + 5)
    assert splitter.feed(long) == [long[:LINE_BYTES]]
    assert splitter.feed(b"\n") == [b"xxxxx\n"]
    assert splitter.feed(b"rest") == []
    assert splitter.flush() == [b"rest"]
    assert splitter.flush() == []


@given(st.lists(st.binary(max_size=40000), max_size=6))
def test_nothing_is_lost_whatever_the_chunks(chunks: list[bytes]) -> None:
    splitter = LineSplitter()
    pieces = [piece for chunk in chunks for piece in splitter.feed(chunk)] + splitter.flush()
    assert b"".join(pieces) == b"".join(chunks)
    assert all(len(piece) <= LINE_BYTES + 1 for piece in pieces)
    assert all(b"\n" not in piece[:-1] for piece in pieces)


def test_records(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = JsonLog({"path": str(path), "attrs": {"a": "b"}})
    log.write("stdout", [b'<b>&\xc3\xa9\xff\xfe\xe2\x80\xa8"\\\n'])
    log.close()
    text = path.read_text()
    assert "<" not in text
    record = json.loads(text)
    assert record["log"] == '<b>&é\ufffd\ufffd\u2028"\\\n'
    assert (record["stream"], record["attrs"]) == ("stdout", {"a": "b"})
    assert record["time"].endswith("Z")
    assert "T" in record["time"]


def test_rotation_keeps_the_newest(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = JsonLog({"path": str(path), "options": {"max-size": "1k", "max-file": "2"}})
    for number in range(100):
        log.write("stdout", [f"line {number}\n".encode()])
    log.close()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["log", "log.1"]
    assert all(file.stat().st_size <= 1000 for file in tmp_path.iterdir())
    assert json.loads(path.read_text().splitlines()[-1])["log"] == "line 99\n"


@pytest.mark.parametrize(("text", "size"), [("10m", 10_000_000), ("1.5KB", 1500), ("-1", -1), ("10mib", 10**7)])
def test_greatest_sizes(tmp_path: Path, text: str, size: int) -> None:
    log = JsonLog({"path": str(tmp_path / "log"), "options": {"max-size": text}})
    log.close()
    assert log.max_size == size


@contextmanager
def file_size_limit(limit_bytes: int) -> Iterator[None]:
    """As on a full disk: what is over the limit is not taken, and the last write may be taken in part."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_the_disk_does_not_take_is_counted_and_leaves_no_torn_record(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = JsonLog({"path": str(path)})
    log.write("stdout", [b"before\n"])
    with file_size_limit(path.stat().st_size + 50):
        for _ in range(3):
            log.write("stdout", [b"lost " * 20 + b"\n"])
    log.write("stdout", [b"after\n"])
    log.write("stdout", [b"more\n"])
    log.close()
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [record["log"] for record in records] == [
        "before\n", "davit: 3 records of this log are lost: File too large\n", "after\n", "more\n",
    ]  # fmt: skip
    assert [record["stream"] for record in records] == ["stdout", "stderr", "stdout", "stdout"]


def test_a_rotation_that_fails_is_not_the_end_of_the_log(tmp_path: Path) -> None:
    directory = tmp_path / "logs"
    directory.mkdir()
    path = directory / "log"
    log = JsonLog({"path": str(path), "options": {"max-size": "100", "max-file": "2"}})
    log.write("stdout", [b"first\n"])
    (directory / "log.1").mkdir()  # in the way
    log.write("stdout", [b"second\n"])
    (directory / "log.1").rmdir()
    log.write("stdout", [b"third\n"])
    log.close()
    texts = [json.loads(line)["log"] for file in sorted(directory.iterdir()) for line in file.read_text().splitlines()]
    assert "third\n" in texts
    assert any("1 records of this log are lost" in text for text in texts)


def test_bad_options_name_the_field(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match=r"log\.options\.max-size"):
        JsonLog({"path": str(tmp_path / "log"), "options": {"max-size": "many"}})
    with pytest.raises(InvalidSpec, match=r"log\.options\.max-file"):
        JsonLog({"path": str(tmp_path / "log"), "options": {"max-file": "0"}})
