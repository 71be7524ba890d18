"""Pipes handed to another process of the same machine, and references that name something else."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from shared.bus.handover import PIPE_BYTES, PipeRef, Sender, take
from shared.errors import Unavailable

READER = """
import asyncio, sys
from shared.bus.handover import PipeRef, take

async def main():
    pipe = take(PipeRef.model_validate_json(sys.argv[1]))
    print("taken", flush=True)
    sys.stdin.readline()
    print(sum([len(chunk) async for chunk in pipe]))

asyncio.run(main())
"""


async def test_another_process_reads_what_does_not_fit_the_pipe() -> None:
    sender = Sender()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", READER, sender.ref().model_dump_json(), stdin=PIPE, stdout=PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert await process.stdout.readline() == b"taken\n"
    sender.taken()
    writing = asyncio.create_task(sender.write(bytes(3 * PIPE_BYTES)))
    await asyncio.sleep(0)
    assert not writing.done()
    process.stdin.write(b"go\n")
    await writing
    sender.close()
    assert (await process.communicate())[0] == b"%d\n" % (3 * PIPE_BYTES)


async def test_a_reader_that_went_is_noticed_while_writing() -> None:
    sender = Sender()
    receiver = take(sender.ref())
    sender.taken()
    writing = asyncio.create_task(sender.write(bytes(3 * PIPE_BYTES)))
    await asyncio.sleep(0)
    receiver.close()
    with pytest.raises(BrokenPipeError):
        await writing
    sender.close()


async def test_the_reader_waits_and_comes_to_the_end() -> None:
    sender = Sender()
    receiver = take(sender.ref())
    sender.taken()
    reading = asyncio.create_task(_all(receiver))
    for piece in (b"one ", b"two"):
        await asyncio.sleep(0.01)
        await sender.write(piece)
    sender.close()
    assert await reading == b"one two"
    receiver.close()


async def _all(receiver) -> bytes:
    return b"".join([chunk async for chunk in receiver])


@pytest.mark.parametrize(
    "change", [{"machine": "other"}, {"inode": 1}, {"device": 1}, {"descriptor": 987_654}, {"pid": 1 << 30}]
)
def test_what_is_not_that_pipe_is_refused(change: dict[str, int | str]) -> None:
    sender = Sender()
    take(sender.ref()).close()
    with pytest.raises(Unavailable) as caught:
        take(sender.ref().model_copy(update=change))
    assert caught.value.detail == {"field": "file"}
    sender.close()


def test_only_pipes_are_handed_over(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"secret")
    sender = Sender()
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        named = {"descriptor": file.fileno(), "device": status.st_dev, "inode": status.st_ino}
        with pytest.raises(Unavailable):
            take(PipeRef.model_validate(sender.ref().model_dump() | named))
    sender.close()
