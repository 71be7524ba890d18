"""What the audit log costs, and what it can take: `python -m benchmarks.audit [--only NAME …]`.

cost        a GET and a start, with nothing recorded, best-effort and enforced; three engines take turns
log         records per second through a spool into the log, and a million of them checked
followers   a thousand clients that follow
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import shutil
import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import orjson
import psutil
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.audit.intake import Intake
from services.audit.log.store import AuditLog
from shared.auditing.records import encoded, moment
from shared.auditing.spool import Spool, boot_id
from shared.auditing.verify import Verifier
from shared.transparency.checkpoints import Checkpoint
from shared.transparency.notes import Signer
from tests.lab.engine import Engine

ROUNDS = 15
MILLION = 1_000_000
FOLLOWERS = 1000
NAME = "davit/bench/audit"


class Client(http.client.HTTPConnection):
    def __init__(self, engine: Engine) -> None:
        super().__init__("localhost")
        self._path = str(engine.socket)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)

    def timed(self, method: str, target: str, body: Any = None) -> tuple[float, bytes]:
        data = None if body is None else json.dumps(body)
        began = time.perf_counter()
        self.request(method, target, data, {"Content-Type": "application/json"} if data else {})
        answer = self.getresponse()
        text = answer.read()
        assert answer.status < 400, text
        return (time.perf_counter() - began) * 1000, text


def cost() -> None:
    """Medians and lower quartiles in milliseconds."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as policy:
        policy.write("default: None\n")
        policy.flush()
        engines = {
            "nothing recorded": Engine(environment={"DAVIT_AUDIT_POLICY": policy.name}),
            "best-effort": Engine(),
            "enforced": Engine(environment={"DAVIT_AUDIT_MODE": "enforced"}),
        }
        try:
            for engine in engines.values():
                engine.netns.__enter__()
                engine.up()
                engine.import_busybox()
            clients = {name: Client(engine) for name, engine in engines.items()}
            taken: dict[str, dict[str, list[float]]] = {name: {} for name in engines}
            for turn in range(ROUNDS + 1):
                for name, client in clients.items():
                    for row, value in _actions(client):
                        if turn:
                            taken[name].setdefault(row, []).append(value)
            for name, rows in taken.items():
                shown = {
                    row: f"{statistics.median(all_):.2f} ({statistics.quantiles(all_)[0]:.2f})"
                    for row, all_ in rows.items()
                }
                print(f"{name:<18}{shown}")
        finally:
            for engine in engines.values():
                engine.close()


def _actions(client: Client) -> list[tuple[str, float]]:
    rows = [("GET", client.timed("GET", "/volumes")[0]) for _ in range(40)]
    for _ in range(3):
        body = {"Image": "busybox", "Cmd": ["sleep", "100"], "HostConfig": {"NetworkMode": "none"}}
        created, text = client.timed("POST", "/containers/create", body)
        identity = json.loads(text)["Id"]
        started, _ = client.timed("POST", f"/containers/{identity}/start")
        removed, _ = client.timed("DELETE", f"/containers/{identity}?force=1")
        rows += [("create", created), ("start", started), ("create + start", created + started), ("rm -f", removed)]
    return rows


RECORD = {
    "kind": "complete",
    "time": moment(0),
    "request": "a6524dfb341a7f39",
    "actor": {"exe": "/usr/bin/docker", "gid": 0, "name": "uid:0", "pid": 30891, "uid": 0, "user": "root"},
    "action": {"resource": "container", "verb": "start", "object": "f" * 64},
    "outcome": {"status": 204, "duration_us": 38332},
    "changed": [{"type": "container", "action": "start", "id": "e" * 64}],
}


def log() -> None:
    directory = Path(tempfile.mkdtemp(dir="/var/tmp", prefix="audit-bench-"))
    try:
        audit_log = AuditLog(directory / "log")
        audit_log.open()
        _through_a_spool(directory / "spool", audit_log, 100_000)
        signer = Signer.of(NAME, Ed25519PrivateKey.generate())
        notes: dict[int, str] = {}
        while audit_log.size < MILLION:
            _append(audit_log, [dict(RECORD) for _ in range(1000)], "bench", audit_log.size)
            notes[audit_log.size] = Checkpoint(NAME, audit_log.size, audit_log.root(), "then").signed(signer)
        lines = _exported(audit_log, notes, signer)
        began = time.perf_counter()
        findings = Verifier(signer.key).check(lines)
        print(f"a million records checked in {time.perf_counter() - began:.1f} s: {findings.problems or 'whole'}")
        place = next(at for at in range(len(lines) * 3 // 4, len(lines)) if b'"number"' in lines[at])
        lines[place] = lines[place].replace(b"docker", b"docked")
        began = time.perf_counter()
        findings = Verifier(signer.key).check(lines)
        print(f"one changed byte found in {time.perf_counter() - began:.1f} s: {findings.problems}")
    finally:
        shutil.rmtree(directory)


def _through_a_spool(directory: Path, audit_log: AuditLog, count: int) -> None:
    spool = Spool(directory, "bench", waiting_bytes=1 << 40)
    payload = orjson.dumps(RECORD)
    began = time.perf_counter()
    for _ in range(count):
        spool.write(payload)
    print(f"a record into a spool: {(time.perf_counter() - began) / count * 1e6:.1f} µs")
    intake = Intake(directory, {}, boot_id())
    began = time.perf_counter()
    while found := intake.collect(2000):
        _append(audit_log, [one.record for one in found], found[0].source, found[0].sequence)
        audit_log.sync()
        intake.committed()
    print(f"from the spool into the log: {count / (time.perf_counter() - began):,.0f} records/s")
    spool.close()
    intake.close()


def _append(audit_log: AuditLog, records: list[dict[str, Any]], source: str, sequence: int) -> None:
    lines = []
    for at, record in enumerate(records):
        record |= {"number": audit_log.size + at, "source": {"id": source, "sequence": sequence + at}}
        lines.append(encoded(record))
    audit_log.append(lines)
    if audit_log.rotation_due:
        audit_log.rotate()
        audit_log.rotated(audit_log.compress())


def _exported(audit_log: AuditLog, notes: dict[int, str], signer: Signer) -> list[bytes]:
    lines = [orjson.dumps({"log": {"key": str(signer.key), "first": 0, "end": audit_log.size, "before": []}})]
    number = 0
    while found := audit_log.read(number, limit=256, limit_bytes=1 << 20):
        hashes = audit_log.hints(number, len(found)).hex()
        lines.append(orjson.dumps({"hints": {"first": number, "hashes": hashes}}))
        for line in found:
            lines.append(line)
            number += 1
            if number in notes:
                lines.append(orjson.dumps({"checkpoint": notes[number]}))
    return lines


def followers() -> None:
    with Engine() as engine:
        asyncio.run(_follow(engine))


async def _follow(engine: Engine) -> None:
    counts = [0] * FOLLOWERS
    last = 0.0

    async def read(at: int, reader: asyncio.StreamReader) -> None:
        nonlocal last
        while line := await reader.readline():
            if line.startswith(b"{"):
                counts[at] += 1
                last = time.perf_counter()

    tasks = []
    for at in range(FOLLOWERS):
        reader, writer = await asyncio.open_unix_connection(str(engine.socket), limit=1 << 22)
        writer.write(b"GET /audit?from=0 HTTP/1.1\r\nHost: x\r\n\r\n")
        tasks.append((asyncio.ensure_future(read(at, reader)), writer))
        if at % 50 == 49:
            await asyncio.sleep(0.05)
    await asyncio.sleep(15)
    api = psutil.Process(engine.pids()["api"])
    before = sum(api.cpu_times()[:2])
    client = Client(engine)
    times = []
    for _ in range(50):
        times.append((await asyncio.to_thread(client.timed, "GET", "/volumes"))[0])
        await asyncio.sleep(0.1)
    ended = time.perf_counter()
    await asyncio.sleep(5)
    print(
        f"{FOLLOWERS} followers: {min(counts)} to {max(counts)} records each, the last {last - ended:.2f} s after it; "
        f"a GET meanwhile {statistics.median(times):.1f} ms; the edge {sum(api.cpu_times()[:2]) - before:.1f} s of "
        f"processor, {api.memory_info().rss >> 20} MiB"
    )
    for task, writer in tasks:
        task.cancel()
        writer.close()


PARTS = {"cost": cost, "log": log, "followers": followers}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.audit", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    for name in parser.parse_args().only:
        PARTS[name]()
    return 0


if __name__ == "__main__":
    sys.exit(main())
