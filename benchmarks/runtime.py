"""The runtime by itself: davit-runc beside runc, and many idle containers on one machine.

    sudo .venv/bin/python -m benchmarks.runtime [--rounds N] [--density N] [--only run|density]

`run`: whole commands, the two runtimes in turn; milliseconds, medians, and the ratio davit-runc / runc.
`density`: containers under the zygote, each with its shim, as the agent has them; then all are killed and removed.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from services.executor.agent.shims.zygote import LaunchResult, Zygote
from services.executor.runtime import cgroups
from services.executor.runtime.spec import defaults
from tests.conformance.runtime.conftest import Runtime, commands

NEIGHBOURS = 25
"""Starts at each end of the density run whose median is compared: one alone says little."""


def timed(action: Callable[[], Any]) -> float:
    """Milliseconds."""
    begin = time.perf_counter()
    action()
    return (time.perf_counter() - begin) * 1000


def quiet(command: list[str]) -> None:
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run(command, check=True, **streams)  # type: ignore[call-overload]


def measure_commands(rounds: int, directory: Path) -> None:
    """`run`, and the four commands of a life one by one."""
    subjects = []
    for name, command in commands().items():
        if command is None:
            print(f"{name} is not installed")
            continue
        (directory / name).mkdir()
        runtime = Runtime(name, command, directory / name)
        bundle = runtime.bundle()
        bundle.write()
        subjects.append((runtime, bundle))
    times: dict[tuple[str, str], list[float]] = {}
    for number in range(rounds):
        for runtime, bundle in subjects:
            where = ["-b", str(bundle.directory)]
            container = f"bench-{number}"
            steps = {
                "run": ["run", *where, container],
                "create": ["create", *where, container],
                "start": ["start", container],
                "state": ["state", container],
                "delete": ["delete", "--force", container],
            }
            for step, arguments in steps.items():
                took = timed(lambda arguments=arguments, runtime=runtime: quiet([*runtime.command, *arguments]))  # type: ignore[misc]
                times.setdefault((step, runtime.name), []).append(took)
    print(f"{'':8} {'davit-runc':>12} {'runc':>12} {'ratio':>8}   median of {rounds}, ms")
    for step in ("run", "create", "start", "state", "delete"):
        medians = {name: statistics.median(taken) for (which, name), taken in times.items() if which == step}
        ours, theirs = medians["davit-runc"], medians.get("runc", float("nan"))
        print(f"{step:8} {ours:12.1f} {theirs:12.1f} {ours / theirs:8.2f}")


class Density:
    """Idle containers, one after another."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.runtime = Runtime("rootfs", [], directory)
        self.rootfs = self.runtime.bundle().rootfs
        self.results: list[tuple[str, LaunchResult, float]] = []

    def order(self, name: str) -> dict[str, Any]:
        bundle = self.directory / name
        for part in ("rootfs", "upper", "work"):
            (bundle / part).mkdir(parents=True)
        spec = defaults.default_spec()
        spec["process"]["args"] = ["sleep", "100000"]
        spec["mounts"] = [mount for mount in spec["mounts"] if mount["destination"] != "/dev/mqueue"]
        return {
            "id": name,
            "bundle": str(bundle),
            "spec": spec,
            "rootfs": {"lower": [str(self.rootfs)], "upper": str(bundle / "upper"), "work": str(bundle / "work")},
            "log": {"driver": "json-file", "path": str(bundle / "log")},
            "socket": str(bundle / "s"),
            "exit_file": str(bundle / "exit.json"),
        }

    async def measure(self, count: int) -> None:
        zygote = Zygote(self.directory)
        await zygote.start()
        available = memory_available()
        try:
            for number in range(count):
                order = self.order(f"d{os.getpid()}-{number}")
                begin = time.perf_counter()
                result = await zygote.launch(order, ())
                self.results.append((order["id"], result, (time.perf_counter() - begin) * 1000))
            self.report(available)
        finally:
            begin = time.perf_counter()
            for _, result, _ in self.results:
                await result.client.signal(9)
            for _, result, _ in self.results:
                await result.client.wait()
                await result.client.close()
            await zygote.close()
            print(f"all ended and removed in {time.perf_counter() - begin:.1f} s; left behind: {self.left_behind()}")

    def report(self, available: int) -> None:
        taken = [time for _, _, time in self.results]
        shims = [shim_memory(result.shim_pid) for _, result, _ in self.results]
        first, last = statistics.median(taken[:NEIGHBOURS]), statistics.median(taken[-NEIGHBOURS:])
        print(f"{len(taken)} idle containers")
        print(f"start, first {NEIGHBOURS}: {first:.1f} ms; last {NEIGHBOURS}: {last:.1f} ms; ratio {last / first:.2f}")
        for name, index in (("proportional", 0), ("private", 1)):
            kilobytes = statistics.median(shim[index] for shim in shims)
            print(f"memory of a shim ({name}), median: {kilobytes / 1024:.2f} MB")
        used = (available - memory_available()) / len(taken)
        print(f"memory of the machine per container, all told (its program and the kernel's too): {used / 1024:.2f} MB")

    def left_behind(self) -> int:
        backend = cgroups.detect()
        return sum(backend.open(f"/davit/{name}").exists() for name, _, _ in self.results)


def shim_memory(pid: int) -> tuple[int, int]:
    """Proportional and private kilobytes. Source: proc_pid_smaps(5)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    found = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.endswith("kB")}
    return found["Pss"], found["Private_Clean"] + found["Private_Dirty"]


def memory_available() -> int:
    """Kilobytes that programs could still have."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--density", type=int, default=500)
    parser.add_argument("--only", choices=("run", "density"))
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="dvb", dir="/var/tmp"))
    try:
        if options.only != "density":
            measure_commands(options.rounds, directory)
        if options.only != "run":
            asyncio.run(Density(directory).measure(options.density))
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
