"""The main job against the reference engine: start, life cycle, exec, parallel life cycles, memory.

    sudo .venv/bin/python -m benchmarks.engine [--rounds N] [--only NAME …]

Both engines run at the same time, each in its own network namespace, and take turns, so that drift of the machine
falls on both. Printed: median of each and their ratio (reference / davit for times and memory: above 1 davit wins).
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import docker

from tests.lab.engine import Engine
from tests.lab.reference import ReferenceEngine

IDLE_CONTAINERS = 20


class Subject:
    """One engine under measurement."""

    def __init__(self, name: str, engine: Engine | ReferenceEngine) -> None:
        self.name = name
        self.engine = engine
        self.client = docker.DockerClient(base_url=engine.url, version="auto", max_pool_size=20, timeout=120)

    def docker(self, *arguments: str) -> None:
        subprocess.run(["docker", *arguments], env=self.engine.environment, check=True, stdout=subprocess.DEVNULL)


def timed(action: Callable[[], None]) -> float:
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def life_cycle(subject: Subject) -> None:
    container = subject.client.containers.create("busybox", "true")
    container.start()
    container.wait()
    container.remove()


def parallel(subject: Subject) -> None:
    with ThreadPoolExecutor(10) as pool:
        list(pool.map(lambda _: life_cycle(subject), range(60)))


def pss_kb(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    except OSError:
        return 0
    return 0


def descendants(root: int) -> set[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            parent = int(stat.rsplit(")", 1)[1].split()[1])
            children.setdefault(parent, []).append(int(entry.name))
    found: set[int] = set()
    todo = [root]
    while todo:
        pid = todo.pop()
        if pid not in found:
            found.add(pid)
            todo += children.get(pid, [])
    return found


def belongs(needle: str) -> set[int]:
    """Pids of processes that name an engine's directory in their command line or environment."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                text = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            except OSError:
                continue
            if needle.encode() in text:
                found.add(int(entry.name))
    return found


def engine_pids(subject: Subject) -> set[int]:
    """All processes of an engine, with those that serve containers, without the containers' own."""
    pids = belongs(str(subject.engine.base))
    for pid in list(pids):
        pids |= descendants(pid)
    own = {
        int(row[1])
        for container in subject.client.containers.list()
        for row in container.top(ps_args="-eo user,pid,comm")["Processes"]
    }
    mine = descendants(os.getpid())
    return {pid for pid in pids if pid not in own and (pid not in mine or subject.name == "reference")} - {os.getpid()}


def memory_kb(subject: Subject) -> int:
    return sum(pss_kb(pid) for pid in engine_pids(subject))


def measure_memory(subject: Subject) -> tuple[float, float]:
    """Idle engine in MB, and MB per idle container beside the container's own processes."""
    time.sleep(3)
    idle = memory_kb(subject)
    containers = [subject.client.containers.run("busybox", "sleep 1000", detach=True) for _ in range(IDLE_CONTAINERS)]
    time.sleep(3)
    loaded = memory_kb(subject)
    for container in containers:
        container.remove(force=True)
    return idle / 1024, (loaded - idle) / 1024 / IDLE_CONTAINERS


def report(name: str, unit: str, ours: list[float], theirs: list[float]) -> None:
    mine, other = statistics.median(ours), statistics.median(theirs)
    print(f"{name:44} {mine:10.2f} {other:10.2f} {unit:6} {other / mine if mine else 0:8.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", nargs="*", default=[])
    options = parser.parse_args()

    with Engine() as engine, ReferenceEngine() as reference:
        subjects = [Subject("davit", engine), Subject("reference", reference)]
        for subject in subjects:
            subject.engine.import_busybox()
            subject.docker("run", "-d", "--name", "idle", "busybox", "sleep", "10000")
        rows: list[tuple[str, int, Callable[[Subject], None]]] = [
            ("docker run --rm busybox true", options.rounds, lambda s: s.docker("run", "--rm", "busybox", "true")),
            ("SDK create+start+wait+remove", options.rounds, life_cycle),
            ("docker exec idle true", options.rounds, lambda s: s.docker("exec", "idle", "true")),
            ("60 life cycles over 10 threads", max(3, options.rounds // 5), parallel),
        ]
        print(f"{'':44} {'davit':>10} {'reference':>10} {'':6} {'ratio':>8}")
        for name, rounds, action in rows:
            if options.only and not any(word in name for word in options.only):
                continue
            times: dict[str, list[float]] = {subject.name: [] for subject in subjects}
            for subject in subjects:
                action(subject)
            for _ in range(rounds):
                for subject in subjects:
                    times[subject.name].append(1000 * timed(partial(action, subject)))
            report(name, "ms", times["davit"], times["reference"])
        if not options.only or "memory" in options.only:
            memory = {subject.name: measure_memory(subject) for subject in subjects}
            report("idle engine", "MB", [memory["davit"][0]], [memory["reference"][0]])
            report("per idle container", "MB", [memory["davit"][1]], [memory["reference"][1]])
        for subject in subjects:
            subject.docker("rm", "-f", "idle")


if __name__ == "__main__":
    main()
