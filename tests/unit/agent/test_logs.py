"""Reading logs, and going on where another reader was cut off."""

from __future__ import annotations

import asyncio
import gzip
import json
from pathlib import Path

import pytest

from services.executor.agent.output.logs import LogReader, end_of_log
from shared.bus.streams import StreamRef
from shared.contracts.containers import Logs
from shared.errors import InvalidArgument, Unavailable


def line(number: int, stream: str = "stdout", text: str = "") -> str:
    time = f"2026-01-01T00:00:{number // 1000:02}.{number % 1000:03}Z"
    fields = {"log": (text or f"line {number}") + "\n", "stream": stream, "time": time}
    # As a shim writes it, and as others may have.
    return json.dumps(fields, separators=(",", ":") if number % 3 else None) + "\n"


def asked(**fields: object) -> Logs:
    return Logs.model_validate({"ref": "c", "stream": StreamRef(id="s"), "stdout": True, "stderr": True} | fields)


async def read(path: Path, request: Logs, *, max_files: int = 3, batches: int = 10**6) -> tuple[bytes, str]:
    """The text, and the position after so many batches."""
    text, position = b"", ""
    async for data, position in LogReader(path, request, max_files=max_files).read(None, tty=True):  # noqa: B007
        text += data
        batches -= 1
        if batches == 0:
            break
    return text, position


def write(path: Path, *numbers: int) -> None:
    with path.open("a") as file:
        file.writelines(line(number) for number in numbers)


def lines(*numbers: int) -> bytes:
    return b"".join(b"line %d\n" % number for number in numbers)


@pytest.mark.parametrize("request_", [{}, {"tail": 2}, {"tail": 0}], ids=["all", "tail", "none"])
async def test_the_rest_begins_where_the_first_reader_was_cut_off(tmp_path: Path, request_: dict[str, int]) -> None:
    log = tmp_path / "log"
    write(log, 1, 2, 3)
    before, position = await read(log, asked(**request_))
    write(log, 4, 5)
    after, _ = await read(log, asked(**request_, after=position))
    assert before == lines(*{"": (1, 2, 3), "2": (2, 3), "0": ()}[str(request_.get("tail", ""))])
    assert after == lines(4, 5)


async def test_a_reader_cut_off_before_its_first_line_knows_where_it_was(tmp_path: Path) -> None:
    log = tmp_path / "log"
    write(log, 1, 2, 3)
    nothing, position = await read(log, asked(tail=1), batches=1)
    write(log, 4)
    assert (nothing, (await read(log, asked(tail=1, after=position)))[0]) == (b"", lines(3, 4))


async def test_a_log_that_was_not_there_yet_is_read_from_its_beginning(tmp_path: Path) -> None:
    log = tmp_path / "log"
    _, position = await read(log, asked(tail=0))
    write(log, 1, 2)
    assert (await read(log, asked(tail=0, after=position)))[0] == lines(1, 2)


@pytest.mark.parametrize("compressed", [False, True])
async def test_the_rest_is_found_after_a_rotation(tmp_path: Path, compressed: bool) -> None:
    log = tmp_path / "log"
    write(log, 1, 2)
    _, position = await read(log, asked())
    write(log, 3)
    if compressed:
        (tmp_path / "log.1.gz").write_bytes(gzip.compress(log.read_bytes()))
        log.unlink()
    else:
        log.rename(tmp_path / "log.1")
    write(log, 4)
    assert (await read(log, asked(after=position)))[0] == lines(3, 4)


async def test_a_new_file_with_the_number_of_an_old_one_is_no_continuation(tmp_path: Path) -> None:
    log = tmp_path / "log"
    write(log, 1, 2)
    _, position = await read(log, asked())
    log.write_text("".join(line(number) for number in (3, 4, 5)))  # the same inode, other lines
    assert (await read(log, asked(after=position)))[0] == lines(3, 4, 5)


async def test_half_a_line_is_read_again_whole(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(line(1) + line(2)[:20])
    before, position = await read(log, asked())
    with log.open("a") as file:
        file.write(line(2)[20:])
    assert (before, (await read(log, asked(after=position)))[0]) == (lines(1), lines(2))


async def test_what_an_attached_client_has_had_is_left_out_by_the_byte(tmp_path: Path) -> None:
    log = tmp_path / "log"
    write(log, 1)
    position = end_of_log(log)
    with log.open("a") as file:
        file.writelines([line(2), line(3, "stderr", "error"), line(4), line(5)])
    request = asked(after=position, skip_bytes=(len(b"line 2\nli"), 2))
    assert (await read(log, request))[0] == b"ror\nne 4\nline 5\n"
    for number in (1, 2):
        (tmp_path / f"log.{number}").touch()
    with pytest.raises(Unavailable, match="rotated"):
        await read(log, request)


async def test_a_position_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="invalid log position: 'x'"):
        await read(tmp_path / "log", asked(after="x"))


async def test_following_tells_positions_too(tmp_path: Path) -> None:
    log, ended = tmp_path / "log", asyncio.Event()
    write(log, 1)
    texts = []
    async for data, position in LogReader(log, asked(follow=True)).read(ended, tty=True):
        texts.append((data, position))
        if len(texts) == 2:
            write(log, 2)
        if len(texts) == 3:
            ended.set()
    assert [text for text, _ in texts] == [b"", lines(1), lines(2)]
    assert (await read(log, asked(after=texts[1][1])))[0] == lines(2)
