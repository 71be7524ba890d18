"""How long a cluster takes: to join, to notice that a node is lost, to start its containers elsewhere, to come back.

A manager and workers in network namespaces of this machine, joined as users join them; seconds, medians of the rounds::

    python -m benchmarks.cluster [--rounds N] [--workers N]
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import socket
import statistics
import time
from collections.abc import Callable
from typing import Any

from tests.lab.engine import eventually
from tests.lab.joined import JoinedCluster, Worker

POLL_S = 0.01


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("engine", timeout=10)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(10)
        self.sock.connect(self._path)


class Watcher:
    """Asks the manager over and over."""

    def __init__(self, cluster: JoinedCluster) -> None:
        self._connection = _Connection(str(cluster.engine.socket))

    def get(self, path: str) -> Any:
        self._connection.request("GET", path)
        return json.loads(self._connection.getresponse().read())

    def state(self, node: str) -> str:
        found = next(one for one in self.get("/nodes") if one["Description"]["Hostname"] == node)
        return str(found["Status"]["State"])

    def until(self, condition: Callable[[], bool], *, within_s: float = 30) -> float:
        """Seconds until the condition holds."""
        began = time.perf_counter()
        while not condition():
            if time.perf_counter() - began > within_s:
                raise TimeoutError("the condition did not come true")
            time.sleep(POLL_S)
        return time.perf_counter() - began


def _end_machine(worker: Worker) -> None:
    """Everything of a node's engine at once, as when its power goes."""
    pids = [int(entry["pid"]) for entry in worker.status()["processes"].values() if entry["pid"]]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def rounds(cluster: JoinedCluster, count: int) -> dict[str, list[float]]:
    watcher, name = Watcher(cluster), next(iter(cluster.workers))
    worker = cluster.workers[name]
    found: dict[str, list[float]] = {}

    def note(what: str, seconds: float) -> None:
        found.setdefault(what, []).append(seconds)

    def placed() -> bool:
        one = watcher.get("/containers/moves/json")
        return one["Node"]["Name"] != name and bool(one["State"]["Running"])

    for _ in range(count):
        cluster.docker("run", "-d", "--name", "moves", "--label", f"davit.constraint=node.hostname==~{name}",
                       "--label", "davit.reschedule=on-node-failure", "busybox", "sleep", "9999")  # fmt: skip
        worker.cut()
        began = time.perf_counter()
        note("cut off: shown as down", watcher.until(lambda: watcher.state(name) == "down"))
        watcher.until(placed)
        note("cut off: its container runs elsewhere", time.perf_counter() - began)
        worker.heal()
        note("healed: shown as ready", watcher.until(lambda: watcher.state(name) == "ready"))
        cluster.docker("rm", "-f", "moves")
        eventually(lambda: not any((worker.data / "containers").iterdir()), 20, "the end of the old container")
        _end_machine(worker)
        note("killed: shown as down", watcher.until(lambda: watcher.state(name) == "down"))
        began = time.perf_counter()
        worker.up()
        watcher.until(lambda: watcher.state(name) == "ready")
        note("started again: shown as ready", time.perf_counter() - began)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    names = [f"w{number}" for number in range(1, arguments.workers + 1)]
    began = time.perf_counter()
    with JoinedCluster(*names) as cluster:
        print(f"manager founded, {len(names)} workers joined and ready: {time.perf_counter() - began:.1f} s")
        cluster.engine.import_busybox()
        for what, seconds in rounds(cluster, arguments.rounds).items():
            print(f"{what:40} {statistics.median(seconds):6.2f} s   ({min(seconds):.2f} to {max(seconds):.2f})")


if __name__ == "__main__":
    main()
