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
MEMORY_SAMPLES = 5


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
    """Proportional set size: private pages, and the part of the shared ones that falls on this process.

    Source: proc_pid_smaps(5).
    """
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):  # it has ended between the listing and now
        return 0
    return next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))


def parents() -> dict[int, int]:
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


def belongs(needle: str, pids: set[int]) -> set[int]:
    """Those processes that name an engine's directory in their command line or environment."""
    found = set()
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
        except (FileNotFoundError, ProcessLookupError, PermissionError):  # ended, or the machine's own first process
            continue
        if needle.encode() in text:
            found.add(pid)
    return found


def engine_pids(subject: Subject) -> set[int]:
    """All processes of an engine and those that serve containers; neither the containers' own nor this one."""
    parent = parents()
    pids = belongs(str(subject.engine.base), set(parent)) - {os.getpid()}
    grown = True
    while grown:
        children = {pid for pid, above in parent.items() if above in pids} - pids
        pids |= children
        grown = bool(children)
    return pids - {pid for container in subject.client.containers.list() for pid in container_pids(container)}


def container_pids(container: docker.models.containers.Container) -> set[int]:
    return {int(row[1]) for row in container.top(ps_args="-eo user,pid,comm")["Processes"]}


def memory_mb(subject: Subject) -> float:
    """Median of a few samples of what all the engine's processes take."""
    samples = []
    for _ in range(MEMORY_SAMPLES):
        time.sleep(1)
        samples.append(sum(pss_kb(pid) for pid in engine_pids(subject)) / 1024)
    return statistics.median(samples)


def memory_per_container_mb(subject: Subject) -> float:
    """What an idle container takes beside its own processes."""
    idle, idle_pids = memory_mb(subject), engine_pids(subject)
    containers = [subject.client.containers.run("busybox", "sleep 1000", detach=True) for _ in range(IDLE_CONTAINERS)]
    time.sleep(3)
    loaded, loaded_pids = memory_mb(subject), engine_pids(subject)
    if len(loaded_pids - idle_pids) < IDLE_CONTAINERS:
        raise RuntimeError(f"{subject.name}: not every container has a process that serves it: the count is wrong")
    for container in containers:
        container.remove(force=True)
    return (loaded - idle) / IDLE_CONTAINERS


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
        print(f"{'':44} {'davit':>10} {'reference':>10} {'':6} {'ratio':>8}")
        memory = not options.only or "memory" in options.only
        if memory:
            report("idle engine", "MB", *([memory_mb(subject)] for subject in subjects))
        for subject in subjects:
            subject.docker("run", "-d", "--name", "idle", "busybox", "sleep", "10000")
        rows: list[tuple[str, int, Callable[[Subject], None]]] = [
            ("docker run --rm busybox true", options.rounds, lambda s: s.docker("run", "--rm", "busybox", "true")),
            ("SDK create+start+wait+remove", options.rounds, life_cycle),
            ("docker exec idle true", options.rounds, lambda s: s.docker("exec", "idle", "true")),
            ("60 life cycles over 10 threads", max(3, options.rounds // 5), parallel),
        ]
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
        if memory:
            report("per idle container", "MB", *([memory_per_container_mb(subject)] for subject in subjects))
            report("engine after all this", "MB", *([memory_mb(subject)] for subject in subjects))
        for subject in subjects:
            subject.docker("rm", "-f", "idle")


if __name__ == "__main__":
    main()
