"""An exec's output in the form that its start asked for."""

from __future__ import annotations

import pytest

from services.api.framing import reframed
from shared.docker.frames import STDERR, STDOUT, frame


class Pieces:
    def __init__(self, *pieces: bytes) -> None:
        self.pieces = [*pieces]
        self.closed = False

    async def read(self) -> bytes:
        return self.pieces.pop(0) if self.pieces else b""

    async def aclose(self) -> None:
        self.closed = True


async def all_of(output) -> bytes:
    data = b""
    while piece := await output.read():
        data += piece
    await output.aclose()
    return data


FRAMES = frame(STDOUT, b"one") + frame(STDERR, b"bad") + frame(STDOUT, b"two")


@pytest.mark.parametrize("cut", range(len(FRAMES)))
async def test_frames_are_taken_off_wherever_they_are_cut(cut):
    pieces = [piece for piece in (FRAMES[:cut], FRAMES[cut:]) if piece]
    output = reframed(Pieces(*pieces), has_tty=False, wants_tty=True)
    assert await all_of(output) == b"onetwo"


async def test_stderr_alone_is_not_the_end():
    output = reframed(Pieces(frame(STDERR, b"bad"), frame(STDOUT, b"one")), has_tty=False, wants_tty=True)
    assert await all_of(output) == b"one"


async def test_a_terminals_output_gets_frames():
    output = reframed(Pieces(b"one", b"two"), has_tty=True, wants_tty=False)
    assert await all_of(output) == frame(STDOUT, b"one") + frame(STDOUT, b"two")


@pytest.mark.parametrize("tty", [True, False])
async def test_what_agrees_is_left_alone(tty):
    pieces = Pieces(b"x")
    assert reframed(pieces, has_tty=tty, wants_tty=tty) is pieces
