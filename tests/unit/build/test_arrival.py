"""Contexts on their way in: in pieces, larger than memory should hold, compressed, or cut off."""

from __future__ import annotations

import gzip
import io
import random
import tarfile
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from services.image.build import intake
from services.image.build.builds import Source
from services.image.build.workdirs import Scratch
from shared.bus.handover import Sender, take
from shared.bus.streams import StreamBroken, StreamRef
from shared.contracts.images import BuildImage
from shared.errors import DavitError

FILES = {"Dockerfile": b"FROM scratch", **{f"f{number}": bytes([number]) * (number * 700) for number in range(60)}}


def tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as out:
        for name, data in FILES.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


async def pieces(data: bytes, seed: int) -> AsyncIterator[bytes]:
    """Pieces of very different sizes."""
    numbers, at = random.Random(seed), 0
    while at < len(data):
        size = numbers.choice((7, 300, 5000, 60_000))
        yield data[at : at + size]
        at += size


@pytest.mark.parametrize("memory_bytes", [0, 300_000, 16 << 20])
@pytest.mark.parametrize("compress", [bytes, gzip.compress])
async def test_pieces_are_put_together(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, memory_bytes: int, compress: Any
) -> None:
    monkeypatch.setattr("services.image.build.context.spool.MEMORY_BYTES", memory_bytes)
    monkeypatch.setattr(intake, "WRITE_BYTES", 100_000)
    for seed in range(5):
        with closing(Scratch(tmp_path)) as scratch:
            context = await intake.receive(pieces(compress(tar()), seed), "Dockerfile", scratch)
            assert {name: context.tree.open(name).read() for name in context.tree.names("")} == FILES
            assert context.dockerfile == "FROM scratch"
    assert list(tmp_path.iterdir()) == []


async def test_a_small_context_leaves_the_disk_alone(tmp_path: Path) -> None:
    with closing(Scratch(tmp_path)) as scratch:
        await intake.receive(pieces(tar(), 1), "Dockerfile", scratch)
        assert list(tmp_path.iterdir()) == []


class _Stream:
    """The stream beside a pipe. Args: failure: What it ends with; None for the end of the context."""

    def __init__(self, failure: DavitError | None) -> None:
        self._failure = failure

    async def read(self) -> bytes:
        if self._failure is not None:
            raise self._failure
        return b""


@pytest.mark.parametrize("failure", [None, StreamBroken("the edge is gone")])
async def test_the_end_of_a_pipe_is_not_that_of_the_context(tmp_path: Path, failure: DavitError | None) -> None:
    """A tar that is cut between two files looks whole; a sender that was killed ends its pipe like any other."""
    sender = Sender()
    stream: Any = _Stream(failure)
    source = Source(BuildImage(stream=StreamRef(id="x")), stream, take(sender.ref()))
    sender.taken()
    await sender.write(tar()[:1536])
    sender.close()
    with closing(Scratch(tmp_path)) as scratch, closing(source):
        if failure is None:
            context = await intake.receive(source.chunks(), "Dockerfile", scratch)
            assert context.tree.names("") == ["Dockerfile", "f0"]
        else:
            with pytest.raises(StreamBroken):
                await intake.receive(source.chunks(), "Dockerfile", scratch)
