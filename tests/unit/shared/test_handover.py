"""Files handed to another process of the same machine, and references that name something else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from shared.errors import Unavailable
from shared.handover import refer, take, unnamed_file

READER = """
import sys
from shared.handover import FileRef, take
file = take(FileRef.model_validate_json(sys.argv[1]))
print("taken", flush=True)
sys.stdin.read()
print(file.read().decode(), end="")
"""


def test_another_process_reads_on_after_the_sender_is_gone(tmp_path: Path) -> None:
    with unnamed_file(tmp_path) as file:
        file.write(b"content")
        command = [sys.executable, "-c", READER, refer(file).model_dump_json()]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"taken\n"
    assert list(tmp_path.iterdir()) == []
    assert process.communicate(b"", timeout=20)[0] == b"content"


@pytest.mark.parametrize(
    "change", [{"machine": "other"}, {"inode": 1}, {"device": 1}, {"descriptor": 987_654}, {"pid": 1 << 30}]
)
def test_what_is_not_that_file_is_refused(tmp_path: Path, change: dict[str, int | str]) -> None:
    with unnamed_file(tmp_path) as file:
        ref = refer(file)
        with take(ref) as again:
            assert again.read() == b""
        with pytest.raises(Unavailable) as caught:
            take(ref.model_copy(update=change))
    assert caught.value.detail == {"field": "file"}


def test_only_files_are_handed_over() -> None:
    reading, writing = os.pipe()
    os.close(writing)
    with open(reading, "rb") as pipe:
        ref = refer(pipe)
        with pytest.raises(Unavailable):
            take(ref)
