"""What a user waits for between starts, against the reference engine: reads, copies, logs, execs, create and remove.

    sudo .venv/bin/python -m benchmarks.requests [--rounds N] [--only NAME …] [--list]

Both engines run at the same time, each in its own network namespace, and take turns. Printed for each row: the median
of both, their ratio (above 1 davit is faster), and the processor time that each engine itself spent on one action.
The client is a bare socket where the row is about the engine, and the docker CLI where it says so.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from benchmarks.engine import belongs, parents
from benchmarks.wire import Wire
from tests.lab.engine import Engine
from tests.lab.reference import ReferenceEngine

API = "/v1.41"
TICKS = os.sysconf("SC_CLK_TCK")
LARGE = 64 << 20
TREE_FILES = 10_000
LOG_BYTES = 50 << 20
LOG_LINE = b"x" * 99 + b"\n"


@dataclass
class Subject:
    """An engine under measurement, with what the rows have put into it."""

    name: str
    engine: Engine | ReferenceEngine
    wire: Wire = field(init=False)
    ids: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.path = Path(self.engine.url.removeprefix("unix://"))
        self.wire = Wire(self.path)

    def get(self, target: str) -> bytes:
        return self.wire.ask("GET", API + target)

    def post(self, target: str, content: object = None, *, expect: int = 200) -> bytes:
        return self.wire.ask("POST", API + target, orjson.dumps(content) if content else b"", expect=expect)

    def docker(self, *arguments: str) -> None:
        subprocess.run(["docker", *arguments], env=self.engine.environment, check=True, stdout=subprocess.DEVNULL)

    def create(self, *command: str) -> str:
        log = {"Type": "json-file", "Config": {"max-size": "1g"}}  # davit rotates by default, the reference does not
        wanted = {"Image": "busybox", "Cmd": command, "HostConfig": {"LogConfig": log}}
        return str(orjson.loads(self.post("/containers/create", wanted, expect=201))["Id"])

    def run(self, *command: str) -> str:
        container = self.create(*command)
        self.post(f"/containers/{container}/start", expect=204)
        return container

    def remove(self, container: str) -> None:
        self.wire.ask("DELETE", f"{API}/containers/{container}?force=1", expect=204)

    def once(self, key: str, make: Callable[[], str]) -> str:
        """Something that a row needs and that is made once."""
        if key not in self.ids:
            self.ids[key] = make()
        return self.ids[key]

    def idle(self) -> str:
        return self.once("idle", lambda: self.run("sleep", "10000"))

    def processor_s(self) -> float:
        """Of all the engine's processes and of those they have waited for."""
        parent = parents()
        pids = belongs(str(self.engine.base), set(parent)) - {os.getpid()}
        grown = True
        while grown:
            children = {pid for pid, above in parent.items() if above in pids} - pids
            pids |= children
            grown = bool(children)
        return sum(_ticks(pid) for pid in pids) / TICKS


def _ticks(pid: int) -> int:
    """Source: proc_pid_stat(5), utime to cstime."""
    try:
        return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]))
    except (FileNotFoundError, ProcessLookupError):
        return 0


@dataclass(frozen=True)
class Row:
    """times: how many actions make one sample. size: MiB that one action moves, when the row is about a rate."""

    name: str
    action: Callable[[Subject], object]
    times: int = 1
    size_mib: float = 0
    prepare: Callable[[Subject], object] | None = None


# -- what the rows do -----------------------------------------------------------------------------------------------


def tar_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


SMALL_TAR = tar_of({"small": b"hello\n"})
LARGE_TAR = tar_of({"large": os.urandom(1 << 20) * (LARGE >> 20)})


def threaded(target: str, threads: int = 8, each: int = 25) -> Callable[[Subject], None]:
    def one(subject: Subject) -> None:
        wire = Wire(subject.path)
        for _ in range(each):
            wire.ask("GET", API + target.format(idle=subject.idle()))
        wire.close()

    def run(subject: Subject) -> None:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(one, [subject] * threads))

    return run


def running(count: int) -> Callable[[Subject], None]:
    def prepare(subject: Subject) -> None:
        subject.idle()
        missing = count - len(orjson.loads(subject.get("/containers/json")))
        for _ in range(missing):
            subject.run("sleep", "10000")

    return prepare


def all_of(count: int) -> Callable[[Subject], None]:
    def prepare(subject: Subject) -> None:
        for _ in range(count - len(orjson.loads(subject.get("/containers/json?all=1")))):
            subject.create("true")

    return prepare


def exec_true(subject: Subject) -> None:
    made = subject.post(f"/containers/{subject.idle()}/exec", {"Cmd": ["true"], "AttachStdout": True}, expect=201)
    made_id = orjson.loads(made)["Id"]
    wire = Wire(subject.path)
    wire.until_closed("POST", f"{API}/exec/{made_id}/start", orjson.dumps({"Detach": False}))
    wire.close()
    state = orjson.loads(subject.get(f"/exec/{made_id}/json"))
    assert state["ExitCode"] == 0, state


def create(subject: Subject) -> None:
    subject.once("created", lambda: "")
    subject.ids["created"] += subject.create("true") + " "


def remove_created(subject: Subject) -> None:
    first, _, rest = subject.ids["created"].partition(" ")
    subject.ids["created"] = rest
    subject.remove(first)


def start(subject: Subject) -> None:
    subject.remove(subject.run("sleep", "1000"))


def tree(subject: Subject) -> str:
    """A container with a tree of many small files, stopped."""

    def make() -> str:
        container = subject.create("sleep", "1000")
        files = {f"tree/d{number % 100}/f{number}": b"%d\n" % number * 50 for number in range(TREE_FILES)}
        subject.wire.ask("PUT", f"{API}/containers/{container}/archive?path=/", tar_of(files))
        return container

    return subject.once("tree", make)


def logged(subject: Subject) -> str:
    def make() -> str:
        lines = LOG_BYTES // len(LOG_LINE)
        container = subject.run("sh", "-c", f"yes {LOG_LINE[:-1].decode()} | head -n {lines}")
        subject.post(f"/containers/{container}/wait")
        return container

    return subject.once("logged", make)


def log_read(subject: Subject, query: str, least: int) -> None:
    body = subject.get(f"/containers/{logged(subject)}/logs?stdout=1&stderr=1&{query}")
    assert len(body) >= least, len(body)


def put_large(subject: Subject) -> None:
    subject.wire.ask("PUT", f"{API}/containers/{subject.idle()}/archive?path=/", LARGE_TAR)


def get_large(subject: Subject) -> None:
    assert len(subject.get(f"/containers/{subject.idle()}/archive?path=/large")) >= LARGE


def saved(subject: Subject) -> Path:
    def make() -> str:
        subject.docker("tag", "busybox", "saved")
        container = tree(subject)
        subject.docker("commit", container, "saved")
        path = f"{tempfile.gettempdir()}/bench-{os.getpid()}-{subject.name}.tar"
        subject.docker("save", "-o", path, "saved")
        return path

    return Path(subject.once("saved", make))


def export(subject: Subject) -> None:
    assert len(subject.get(f"/containers/{tree(subject)}/export")) > TREE_FILES * 512


def tree_out(subject: Subject) -> None:
    assert len(subject.get(f"/containers/{tree(subject)}/archive?path=/tree")) > TREE_FILES * 512


def life_cycle(subject: Subject) -> None:
    container = subject.run("true")
    subject.post(f"/containers/{container}/wait")
    subject.remove(container)


ROWS = (
    Row("ping", lambda s: s.get("/_ping"), times=300),
    Row("ping, 8 threads", threaded("/_ping", each=40), prepare=lambda s: s.idle()),
    Row("inspect", lambda s: s.get(f"/containers/{s.idle()}/json"), times=100),
    Row("inspect, 8 threads", threaded("/containers/{idle}/json"), prepare=lambda s: s.idle()),
    Row("list of one", lambda s: s.get("/containers/json"), times=50, prepare=lambda s: s.idle()),
    Row("stats one-shot", lambda s: s.get(f"/containers/{s.idle()}/stats?stream=0&one-shot=1"), times=10),
    Row("stats, not streamed", lambda s: s.get(f"/containers/{s.idle()}/stats?stream=0")),
    Row(
        "cp small in",
        lambda s: s.wire.ask("PUT", f"{API}/containers/{s.idle()}/archive?path=/tmp", SMALL_TAR),
        times=3,
        prepare=lambda s: s.docker("exec", s.idle(), "mkdir", "-p", "/tmp"),
    ),
    Row("cp small out", lambda s: s.get(f"/containers/{s.idle()}/archive?path=/etc/hostname"), times=3),
    Row("cp 64 MB in", put_large, size_mib=64),
    Row("cp 64 MB out", get_large, size_mib=64, prepare=put_large),
    Row("cp tree of 10,000 files out", tree_out, prepare=tree),
    Row("export of 10,000 files", export, prepare=tree),
    Row("load of an image that is there", lambda s: s.docker("load", "-q", "-i", str(saved(s))), prepare=saved),
    Row("logs, raw", lambda s: log_read(s, "tail=all", LOG_BYTES), size_mib=50, prepare=logged),
    Row("logs, by the CLI", lambda s: s.docker("logs", logged(s)), size_mib=50, prepare=logged),
    Row("logs, last 10 of 50 MB", lambda s: log_read(s, "tail=10", 1000), times=5, prepare=logged),
    Row("exec true", exec_true, times=3),
    Row("create", create, times=5),
    Row("remove created", remove_created, times=5),
    Row("create, start, remove by force", start, times=2),
    Row("life cycle", life_cycle, times=2),
    Row("list of 50 running", lambda s: s.get("/containers/json"), times=20, prepare=running(50)),
    Row("list of 250 in all", lambda s: s.get("/containers/json?all=1"), times=5, prepare=all_of(250)),
)


# -- measuring ------------------------------------------------------------------------------------------------------


@dataclass
class Found:
    """Seconds by sample, and processor seconds in all."""

    seconds: list[float] = field(default_factory=list)
    processor_s: float = 0


def sample(row: Row, subject: Subject, found: Found) -> None:
    before = subject.processor_s()
    begun = time.perf_counter()
    for _ in range(row.times):
        row.action(subject)
    found.seconds.append((time.perf_counter() - begun) / row.times)
    found.processor_s += (subject.processor_s() - before) / row.times


def measure(row: Row, subjects: list[Subject], rounds: int) -> None:
    found = {subject.name: Found() for subject in subjects}
    for subject in subjects:
        if row.prepare is not None:
            row.prepare(subject)
        if row.name != "remove created":
            row.action(subject)
    for number in range(rounds):
        for subject in subjects[:: 1 if number % 2 else -1]:
            sample(row, subject, found[subject.name])
    ours, theirs = found["davit"], found.get("reference", Found([0]))
    mine, other = statistics.median(ours.seconds), statistics.median(theirs.seconds)
    values = (
        [row.size_mib / value if value else 0 for value in (mine, other)] if row.size_mib else [mine * 1e3, other * 1e3]
    )
    unit = "MiB/s" if row.size_mib else "ms"
    processor = [1e3 * one.processor_s / rounds for one in (ours, theirs)]
    print(
        f"{row.name:32} {values[0]:10.2f} {values[1]:10.2f} {unit:6} {other / mine:8.2f}"
        f"   {processor[0]:9.2f} {processor[1]:9.2f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=[], help="rows whose names begin with one of these")
    parser.add_argument("--alone", action="store_true", help="davit without the reference engine")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    rows = [row for row in ROWS if not options.only or row.name.startswith(tuple(options.only))]
    if options.list:
        print("\n".join(row.name for row in rows))
        return
    with Engine() as engine, ReferenceEngine() as reference:
        subjects = [Subject("davit", engine)]
        if not options.alone:
            subjects.append(Subject("reference", reference))
        for subject in subjects:
            subject.engine.import_busybox()
        print(f"{'':32} {'davit':>10} {'reference':>10} {'':6} {'ratio':>8}   {'processor time, ms':>19}")
        try:
            for row in rows:
                measure(row, subjects, options.rounds)
        finally:
            for subject in subjects:
                if "saved" in subject.ids:
                    Path(subject.ids["saved"]).unlink(missing_ok=True)


if __name__ == "__main__":
    main()
