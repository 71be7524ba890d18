"""Lines that are passed on without being decoded come out as those that are."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from services.executor.agent.output.logs import encode, parse_line
from services.executor.agent.output.passing import Passing
from services.executor.runtime.shim.logfile import JsonLog
from shared.bus.streams import StreamRef
from shared.contracts.containers import Logs
from shared.docker.moments import parse_rfc3339_ns, rfc3339

BOTH = frozenset((b"stdout", b"stderr"))
TIME = "2026-01-01T00:00:00.123456789Z"
TEXTS = [
    b"", b"\n", b"plain\n", b"no newline", b'"quoted"\n', b"a\\b\n", b"\\n\n", b"\\\n", b"tab\there\n", b"\r\n",
    b"\x00\x1b[0m\n", "gr\u00fc\u00dfe \u2028 \U0001f600\n".encode(), b"<a href='x'>&amp;</a>\n", b"\xff\xfe\n",
    b"x" * 16384, b'{"log":"x"}\n',
]  # fmt: skip


def asked(**fields: object) -> Logs:
    return Logs.model_validate({"ref": "c", "stream": StreamRef(id="s"), "stdout": True, "stderr": True} | fields)


def slowly(lines: bytes, request: Logs, *, tty: bool) -> bytes:
    wanted = {name for name in ("stdout", "stderr") if getattr(request, name)}
    records = [parse_line(line) for line in lines.splitlines()]
    return encode([one for one in records if one is not None and one.stream in wanted], request, tty=tty)


def written(tmp_path: Path, texts: list[tuple[bytes, str]]) -> bytes:
    """As a shim writes them."""
    log = JsonLog({"path": str(tmp_path / "log")})
    for text, stream in texts:
        log.write(stream, [text])
    log.close()
    return (tmp_path / "log").read_bytes()


@pytest.mark.parametrize("tty", [True, False])
@pytest.mark.parametrize("streams", [("stdout", "stderr"), ("stderr",)])
@pytest.mark.parametrize("timestamps", [True, False])
def test_it_is_what_each_record_gives(tmp_path: Path, tty: bool, streams: tuple[str, ...], timestamps: bool) -> None:
    chance = random.Random(1)
    lines = written(tmp_path, [(chance.choice(TEXTS), chance.choice(("stdout", "stderr"))) for _ in range(300)])
    request = asked(stdout="stdout" in streams, stderr="stderr" in streams, timestamps=timestamps)
    passing = Passing(frozenset(name.encode() for name in streams), tty=tty, timestamps=timestamps)
    assert passing.on(lines) == slowly(lines, request, tty=tty)
    last = parse_line(lines.splitlines()[-1])
    assert last is not None
    assert passing.last_time == last.time


@pytest.mark.parametrize(("first", "last"), [(0, 0), (2, 0), (0, 2), (1, 2), (5, 0)])
def test_only_lines_of_the_time_that_is_asked_for(first: int, last: int) -> None:
    start = parse_rfc3339_ns(TIME)
    times = [rfc3339(start + number) for number in range(4)]
    lines = "".join(f'{{"log":"{n}\\n","stream":"stdout","time":"{time}"}}\n' for n, time in enumerate(times)).encode()
    passing = Passing(
        BOTH, tty=True, timestamps=False, first_ns=start + first if first else 0, last_ns=start + last if last else 0
    )
    wanted = range(first, (last or 3) + 1)
    assert passing.on(lines) == b"".join(b"%d\n" % number for number in wanted)
    assert passing.last_time == times[-1]
    short = lines.replace(b".123456789Z", b".1Z")  # fewer digits do not compare as text
    assert passing.on(short) == b"".join(b"%d\n" % number for number in wanted if number or not first)


@pytest.mark.parametrize(
    "line",
    [
        b"torn",
        b'{"log":"a\\n","stream":"stdout","time":"%b"' % TIME.encode(),
        b'\x00\x00{"log":"a\\n","stream":"stdout","time":"%b"}' % TIME.encode(),
        b'{"log":"a\\n","stream":"stdout","attrs":{"a":"b"},"time":"%b"}' % TIME.encode(),
        b'{"log":"\\ud800\\n","stream":"stdout","time":"%b"}' % TIME.encode(),
        b'{"log":"\xff\\n","stream":"stdout","time":"%b"}' % TIME.encode(),
        json.dumps({"log": "spaced", "stream": "stdout", "time": TIME}).encode(),
    ],
)
def test_other_lines_are_left_to_who_looks_at_each(line: bytes) -> None:
    good = b'{"log":"good\\n","stream":"stdout","time":"%b"}\n' % TIME.encode()
    assert Passing(BOTH, tty=True, timestamps=False).on(good + line + b"\n" + good) is None
    assert Passing(BOTH, tty=True, timestamps=False).on(good) == b"good\n"
