"""kill -9 of whoever records, while requests go on: no gap, no double, no effect without a record."""

from __future__ import annotations

import http.client
import json
import os
import random
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import require_root
from tests.faults.test_full_disk import DISK_BYTES, full
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
    # Events are published again by whoever takes over from a service that was killed, a few seconds later.
    made = eventually(
        lambda: _with_all(answered, volumes_that_were_made(engine)), 30, "the events of what was answered"
    )
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


def _with_all(answered: set[str], made: set[str]) -> set[str]:
    return made if answered <= made else set()


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


@pytest.mark.parametrize("count", [10, pytest.param(1000, marks=pytest.mark.slow)])
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


@pytest.fixture
def small(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """An engine in the mode of the parameter, whose data root is a small file system of its own."""
    require_root()
    base = Path(f"/var/tmp/dvt-audit-{os.getpid()}")
    (base / "data").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "dvt-audit", base / "data"], check=True)
    try:
        with Engine(base=base, environment={"DAVIT_AUDIT_MODE": request.param}) as engine:
            engine.import_busybox()
            yield engine
    finally:
        subprocess.run(["umount", base / "data"], check=True)
        subprocess.run(["rm", "-rf", base], check=True)


@pytest.mark.parametrize("small", ["enforced"], indirect=True)
def test_on_a_full_disk_enforced_carries_out_and_records_what_frees_space_only(small: Engine) -> None:
    engine = small
    for name in ("first", "second", "third"):
        engine.docker("run", "-d", "--name", name, "busybox", "sleep", "600")
    before = len(records(engine))
    with full(engine):
        time.sleep(0.2)  # longer than the edge trusts its last look at the disk
        refused = engine.docker("volume", "create", "never", check=False)
        assert refused.returncode != 0
        assert "cannot be recorded" in refused.stderr
        assert "cannot be recorded" in engine.docker("volume", "ls", check=False).stderr
        removed = engine.docker("rm", "-f", "first", check=False)
        assert removed.returncode == 0, removed.stderr
        engine.kill("api")
        said: list[str] = []

        def killed() -> bool:
            done = engine.docker("kill", "second", check=False)
            said.append(done.stderr)
            return done.returncode == 0

        try:
            eventually(killed, 20, "a container killed")
        except AssertionError as error:
            raise AssertionError(said[-1]) from error
    eventually(lambda: engine.docker("volume", "ls", check=False).returncode == 0, 20, "room for records")
    found = eventually(lambda: _with_removal(records(engine)[before:]), 20, "the removal's records")
    assert not [
        one for one in found if (one.get("action") or {}).get("object") == "never" and one["kind"] == "received"
    ]
    gaps = [one["gap"] for one in found if one["kind"] == "gap"]
    assert gaps
    assert [gap["count"] for gap in gaps] == [gap["refused"] for gap in gaps], "all that is not there was refused"


def _with_removal(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    outcomes = {
        (one["action"]["verb"], one["action"].get("object")): one["outcome"]["status"]
        for one in found
        if one["kind"] == "complete"
    }
    return found if outcomes.get(("remove", "first")) == 204 and outcomes.get(("kill", "second")) == 204 else []


@pytest.mark.parametrize("small", ["best-effort"], indirect=True)
def test_on_a_full_disk_best_effort_tells_how_much_it_could_not_record(small: Engine) -> None:
    engine = small
    size = len(records(engine))
    with full(engine):
        time.sleep(0.2)
        for _ in range(5):
            assert engine.docker("volume", "ls", check=False).returncode == 0
    eventually(lambda: engine.docker("volume", "ls", check=False).returncode == 0, 20)
    gaps = eventually(lambda: [one for one in records(engine)[size:] if one["kind"] == "gap"], 20, "a gap")
    assert sum(one["gap"]["count"] for one in gaps) >= 10
    assert "the disk is full" in gaps[0]["gap"]["reason"]
    found = records(engine)
    assert [one["number"] for one in found] == list(range(len(found)))
