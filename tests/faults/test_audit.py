"""kill -9 of whoever records, while requests go on: no gap, no double, no effect without a record."""

from __future__ import annotations

import http.client
import json
import os
import random
import socket
import threading
import time
from collections import Counter
from typing import Any

import pytest

from tests.lab.engine import DAVIT, Engine, eventually
from tests.lab.netns import run

pytestmark = [pytest.mark.root, pytest.mark.timeout(3600)]

VICTIMS = ("audit", "api", "audit", "api", "volume", "nats", "supervisor")


class Caller(threading.Thread):
    """Makes volumes and removes each second one, and does not mind whether it is answered."""

    def __init__(self, engine: Engine, name: str) -> None:
        super().__init__(daemon=True)
        self._path = str(engine.socket)
        self._name = name
        self.stop = threading.Event()
        self.answered: list[str] = []

    def run(self) -> None:
        number = 0
        while not self.stop.is_set():
            number += 1
            name = f"{self._name}-{number}"
            if self._ask("POST", "/volumes/create", json.dumps({"Name": name})) == 201:
                self.answered.append(name)
            if number % 2:
                self._ask("DELETE", f"/volumes/{name}", None)

    def _ask(self, method: str, target: str, body: str | None) -> int:
        connection = http.client.HTTPConnection("localhost", timeout=20)
        try:
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.settimeout(20)
            connection.sock.connect(self._path)
            connection.request(method, target, body, {"Content-Type": "application/json"} if body else {})
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            time.sleep(0.05)
            return 0
        finally:
            connection.close()


def records(engine: Engine) -> list[dict[str, Any]]:
    shown = run(
        *engine.netns.enter, str(DAVIT), "audit", "tail", "--from", "0", "--json", check=False, env=engine.environment
    )
    return [json.loads(line) for line in shown.stdout.splitlines()]


def volumes_that_were_made(engine: Engine) -> set[str]:
    """By the volume service's own events, which it records with what it does."""
    shown = engine.docker("events", "--since", "1", "--until", str(int(time.time()) + 1), "--format", "{{json .}}")
    events = [json.loads(line) for line in shown.stdout.splitlines()]
    return {event["Actor"]["ID"] for event in events if event["Type"] == "volume" and event["Action"] == "create"}


def kills(engine: Engine, count: int) -> None:
    chance = random.Random(count)
    for _ in range(count):
        engine.kill(chance.choice(VICTIMS))
        time.sleep(chance.uniform(0.0, 0.8))


def check(engine: Engine, answered: set[str]) -> None:
    """What the log must have, whatever was killed."""
    eventually(lambda: engine.status().get("healthy"), 60, "a healthy engine")
    made = volumes_that_were_made(engine)
    assert answered <= made
    found = eventually(lambda: _complete(records(engine)), 60, "an outcome for every request")
    assert [record["number"] for record in found] == list(range(len(found)))
    by_source: dict[str, list[int]] = {}
    for record in found:
        by_source.setdefault(record["source"]["id"], []).append(record["source"]["sequence"])
    for source, sequences in by_source.items():
        if not source.startswith("events:"):
            assert sequences == list(range(1, len(sequences) + 1)), source
    received = {
        record["action"].get("object")
        for record in found
        if record["kind"] == "received" and record["action"]["verb"] == "create"
    }
    assert made <= received
    assert [record for record in found if record["kind"] == "gap"] == []
    verified = eventually(lambda: _verified(engine), 30, "a signed log")
    assert "are what was signed" in verified


def _complete(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records, once each request that was received has an outcome, and one."""
    counted = {
        kind: Counter(one["request"] for one in found if one["kind"] == kind) for kind in ("received", "complete")
    }
    assert max(counted["received"].values(), default=0) <= 1
    assert max(counted["complete"].values(), default=0) <= 1
    # The reader's own request is under way while it reads.
    missing = [request for request in counted["received"] if request not in counted["complete"]]
    own = {one.get("request") for one in found if (one.get("action") or {}).get("resource") == "audit"}
    return found if set(missing) <= own else []


def _verified(engine: Engine) -> str:
    shown = run(*engine.netns.enter, str(DAVIT), "audit", "verify", check=False, env=engine.environment)
    return shown.stdout if shown.returncode == 0 and "are what was signed" in shown.stdout else ""


@pytest.mark.parametrize("count", [15, pytest.param(1000, marks=pytest.mark.slow)])
def test_kills_leave_no_gap_no_double_and_no_effect_without_a_record(engine: Engine, count: int) -> None:
    callers = [Caller(engine, f"v{number}-{os.getpid()}") for number in range(3)]
    for caller in callers:
        caller.start()
    try:
        kills(engine, count)
    finally:
        for caller in callers:
            caller.stop.set()
        for caller in callers:
            caller.join(30)
    answered = {name for caller in callers for name in caller.answered}
    assert len(answered) > 10
    check(engine, answered)
