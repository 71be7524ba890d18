"""Whatever is said to a shim, and whatever an order holds: the process that runs goes on, and everybody is answered."""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.runtime_alone.test_shim import Place, Started, eventually, place  # noqa: F401  (a fixture)

SEED = 20_261_130
EXTREMES = [0, 1, -1, 65535, 65536, 70000, 2**31, 2**32, 2**63, 2**64, 10**400, -(2**64)]
STRANGE: list[Any] = [None, True, False, 1.5, 1e999, "", "7", "\ud800", "x" * 5000, [], [1], {}, {"a": {"b": []}}]
OPERATIONS = ["state", "start", "signal", "resize", "wait", "attach", "close_stdin", "nosuch"]
FIELDS = ["id", "op", "number", "all", "rows", "cols", "stdin", "stdout", "stderr", "more"]


def frame(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


def requests(rng: random.Random, count: int) -> Iterator[bytes]:
    """Frames that are requests with one thing wrong or more, or no requests at all."""
    for _ in range(count):
        message: dict[str, Any] = {"id": 1, "op": rng.choice(OPERATIONS)}
        for name in rng.sample(FIELDS, rng.randint(0, 5)):
            message[name] = rng.choice(EXTREMES + STRANGE)
        if message.get("op") == "signal" and isinstance(message.get("number"), int):
            message["number"] = rng.choice([n for n in EXTREMES if n not in (1, True)])  # SIGHUP would rightly end it
        body = json.dumps(message).encode()
        kind = rng.randint(0, 9)
        if kind == 0:
            body = body[: rng.randint(0, len(body))]
        elif kind == 1:
            body = bytes(rng.randrange(256) for _ in range(rng.randint(0, 200)))
        elif kind == 2:
            body = b'{"op":"state","id":' + b"[" * 50_000
        yield frame(body) if rng.randint(0, 19) else bytes(rng.randrange(256) for _ in range(8))


def say(path: str, data: bytes) -> None:
    """One connection that says something and reads whatever comes before the shim or it has enough."""
    with socket.socket(socket.AF_UNIX) as one:
        one.settimeout(0.05)
        one.connect(path)
        try:
            one.sendall(data)
            one.shutdown(socket.SHUT_WR)
            while one.recv(65536):
                pass
        except (TimeoutError, ConnectionError):
            return


@pytest.mark.parametrize("size", [(70000, 100), (-1, 80), (24, 2**32), (24, 65536), (24, 10**30)])
def test_a_size_that_no_terminal_has_is_refused(place: Place, size: tuple[int, int]) -> None:  # noqa: F811
    started = Started(place.order("sh", "-c", "read line; stty size", tty=True, open_stdin=True))
    started.ask("resize", rows=33, cols=99)
    rows, cols = size
    refused = started.refused("resize", rows=rows, cols=cols)
    assert (refused["code"], refused["field"]) == ("invalid_spec", "cols" if rows == 24 else "rows")
    started.output.sendall(b"go\n")
    record, output = started.end()
    assert (record["exit_code"], b"33 99" in output) == (0, True)


def test_nothing_that_a_client_says_ends_the_process(place: Place) -> None:  # noqa: F811
    rng = random.Random(SEED)
    order = place.order("sh", "-c", "trap : USR1; while :; do read line && echo got $line || exit 3; done", tty=True)
    order["open_stdin"] = True
    started = Started(order)
    for data in requests(rng, 300):
        say(order["socket"], data)
        # the order's own connection: frames alone, since a broken one would close it
        started.connection.sendall(frame(json.dumps({"id": 5, "op": rng.choice(STRANGE), "rows": 2**40}).encode()))
    assert started.ask("state")["status"] == "running"
    started.ask("signal", number=9)
    assert started.end()[0]["exit_code"] == 137
    assert place.nothing_left()


def test_more_connections_than_descriptors_are_waited_for(place: Place) -> None:  # noqa: F811
    order = place.order("sleep", "300")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The shim begins with copies of this process's descriptors, whatever tests before this one have left open.
    limit = max(int(number) for number in os.listdir("/proc/self/fd")) + 90
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        started = Started(order)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    crowd: list[socket.socket] = []
    with contextlib.ExitStack() as held:
        deadline = time.monotonic() + 1
        while time.monotonic() < deadline:  # the queue stays full
            one = held.enter_context(socket.socket(socket.AF_UNIX))
            one.setblocking(False)
            try:
                one.connect(order["socket"])
            except BlockingIOError:
                one.close()
                time.sleep(0.01)
                continue
            crowd.append(one)
            deadline = time.monotonic() + 0.5
        numbers = [int(number) for number in os.listdir(f"/proc/{started.pid}/fd")]
        assert max(numbers) >= limit - 5, "it has descriptors left"
        assert started.ask("state")["status"] == "running"
        before = busy(started.pid)
        time.sleep(0.3)  # the time in which it is to do nothing
        assert busy(started.pid) - before < 10
    eventually(lambda: answered(order["socket"]))
    started.ask("signal", number=9)
    assert started.end()[0]["exit_code"] == 137


def answered(path: str) -> bool:
    """Whether another connection gets through."""
    with socket.socket(socket.AF_UNIX) as one:
        one.setblocking(False)
        try:
            one.connect(path)
        except BlockingIOError:
            return False
        one.settimeout(5)
        one.sendall(frame(b'{"id":1,"op":"state"}'))
        return b"running" in one.recv(4096)


def busy(pid: int) -> int:
    """Clock ticks a process has computed for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def mutated(rng: random.Random, value: Any) -> Any:
    """The same document with one value somewhere in it replaced."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        return value | {key: mutated(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.9:
        at = rng.randrange(len(value))
        return [*value[:at], mutated(rng, value[at]), *value[at + 1 :]]
    return rng.choice(EXTREMES + STRANGE)


def test_every_order_is_answered(place: Place) -> None:  # noqa: F811
    """Launched or refused with a reason; and a refused one leaves nothing."""
    rng = random.Random(SEED)
    whole = place.order("true", tty=True, console_size=[24, 80], user={"user": "user", "groups": ["root"]})
    kept = {key: whole.pop(key) for key in ("id", "bundle", "rootfs", "socket", "exit_file")}
    whole["spec"].pop("ociVersion")
    for _ in range(40 if place.own else 8):
        order = dict(whole)
        name = rng.choice(list(order))
        order[name] = mutated(rng, order[name])
        try:
            started = Started(order | kept)
        except Started.Refused:
            continue  # seen by whoever gives the order, before there is a shim
        assert started.first["event"] in ("launched", "failed"), (order, started.first)
        if started.first["event"] == "launched":
            started.end()
        else:
            assert started.first["error"]["message"]
            started.close()
        assert not place.cgroup.exists(), order
