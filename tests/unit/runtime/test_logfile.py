"""Docker's json-file form."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.executor.runtime.errors import InvalidSpec
from services.executor.runtime.logfile import LINE_BYTES, JsonLog, LineSplitter, human_size


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


@pytest.mark.parametrize(
    ("text", "size"), [("10m", 10_000_000), ("1.5KB", 1500), ("100", 100), ("-1", -1), ("2g", 2 * 10**9)]
)
def test_sizes(text: str, size: int) -> None:
    assert human_size(text) == size


def test_bad_options_name_the_field(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match=r"log\.options\.max-size"):
        JsonLog({"path": str(tmp_path / "log"), "options": {"max-size": "many"}})
    with pytest.raises(InvalidSpec, match=r"log\.options\.max-file"):
        JsonLog({"path": str(tmp_path / "log"), "options": {"max-file": "0"}})
