"""Docker's multiplexed stream."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from services.executor.agent.containers.probes import Collected
from services.executor.runtime.shim.streams import output_frame
from shared.docker.frames import STDERR, STDOUT, Demultiplexer, Frame, frame

FRAMES = st.lists(st.builds(Frame, st.sampled_from((STDOUT, STDERR)), st.binary(max_size=300)), max_size=6)


def test_a_frame() -> None:
    assert frame(STDERR, b"hello") == b"\x02\0\0\0\0\0\0\x05hello"


@given(FRAMES, st.lists(st.integers(0, 2000), max_size=8), st.integers(0, 20))
def test_frames_come_out_however_they_are_cut(frames: list[Frame], cuts: list[int], missing: int) -> None:
    data = b"".join(frame(*one) for one in frames)
    sent = data[: len(data) - missing] if missing <= len(data) else b""
    reader, found = Demultiplexer(), []
    marks = [0, *sorted(cuts), len(sent)]
    for start, end in itertools.pairwise(marks):
        found += reader.feed(sent[start:end])
    assert found == frames[: len(found)]
    assert b"".join(frame(*one) for one in found) + bytes(reader.pending) == sent
    if sent == data:
        assert found == frames


@given(st.sampled_from((("stdout", STDOUT), ("stderr", STDERR))), st.binary(max_size=300))
def test_the_shim_writes_the_same(stream: tuple[str, int], data: bytes) -> None:
    assert output_frame(stream[0], data) == frame(stream[1], data)


def test_what_there_is_of_a_probes_output() -> None:
    data = frame(STDOUT, b"one ") + frame(STDERR, b"two ") + frame(STDOUT, b"three")
    assert collected(data, 100) == "one two three"
    assert collected(data[:-2], 100) == "one two thr"
    assert collected(data, 9) == "one two t..."
    assert collected(frame(STDOUT, b"x") * 5000, 4096) == "x" * 4096 + "..."


def collected(data: bytes, limit_bytes: int) -> str:
    output = Collected(limit_bytes)
    for start in range(0, len(data), 1000):
        output.feed(data[start : start + 1000])
    return output.text()
