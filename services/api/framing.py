"""Output in the form that a client asked for, whatever form the process has it in.

An exec is created with or without a terminal, and started by a client that expects a stream in frames or none. Docker
follows the start in both, the header and the body; usually the two agree.

Source: moby, `postContainerExecStart`; the reference engine's answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.docker.frames import STDOUT, Demultiplexer, frame

if TYPE_CHECKING:
    from services.api.streaming import Output


class Framed:
    """What a terminal says, in frames of stdout."""

    def __init__(self, output: Output) -> None:
        self._output = output

    async def read(self) -> bytes:
        data = await self._output.read()
        return frame(STDOUT, data) if data else b""

    async def aclose(self) -> None:
        await self._output.aclose()


class Unframed:
    """What comes in frames of stdout, without them. A terminal has no stderr, and Docker shows none to who has one."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._frames = Demultiplexer()

    async def read(self) -> bytes:
        while data := await self._output.read():
            if payload := b"".join(one.payload for one in self._frames.feed(data) if one.stream == STDOUT):
                return payload
        return b""

    async def aclose(self) -> None:
        await self._output.aclose()


def reframed(output: Output, *, has_tty: bool, wants_tty: bool) -> Output:
    """Output of a process that has a terminal, or none, as a client of one that has, or none, reads it."""
    if has_tty == wants_tty:
        return output
    return Framed(output) if has_tty else Unframed(output)
