"""Containers that end, restart or are removed in the very moment in which an engine process is killed.

Whatever is killed: no exit is lost, none is told twice, `--rm` and restart policies do their work, and who waits gets
the answer, if need be by asking again.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import docker
import pytest

from shared.contracts.node import REPORT
from tests.e2e.conftest import require_root
from tests.faults.test_kill_everything import zygote_of
from tests.lab.engine import Engine, eventually

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

SETTLED_WITHIN_S = 40.0
REPORT_DEADLINE_S = REPORT.deadline_s or 0.0
PROCESSES = ("supervisor", "nats", "image", "network", "volume", "control", "api", "agent", "zygote")
# Seconds that an exec runs, and its exit code.
EXECS = ((2, 4), (8, 5))
# What a client of the API loses its connection with.
CLIENTS_OF = ("supervisor", "api")


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    require_root()
    with Engine() as one:
        one.import_busybox()
        yield one


@dataclass
class Round:
    """One kill, and the containers that wait for it: each ends when the file `go` appears."""

    engine: Engine
    process: str
    go: Path

    def name(self, kind: str) -> str:
        return f"{kind}-{self.process}"

    def run(self, kind: str, script: str, *options: str) -> None:
        awaited = "while [ ! -e /go/now ]; do usleep 5000; done; "
        command = ("busybox", "sh", "-c", awaited + script)
        mount = f"{self.go}:/go"
        self.engine.docker("run", "-d", "--name", self.name(kind), "-v", mount, *options, *command)

    def victim(self) -> int:
        """The pid to kill; found out beforehand, so that the kill itself takes no time."""
        pids = eventually(lambda: (found := self.engine.pids()).keys() >= set(PROCESSES) - {"zygote"} and found, 20)
        return zygote_of(pids["agent"]) if self.process == "zygote" else int(pids[self.process])

    def state(self, kind: str, template: str) -> str:
        result = self.engine.docker("inspect", "-f", template, self.name(kind), check=False, timeout_s=30)
        return result.stdout.strip() if result.returncode == 0 else result.stderr.strip()

    def becomes(self, kind: str, template: str, wanted: str) -> None:
        what = f"{template} of {self.name(kind)} being {wanted}"
        eventually(lambda: wanted in self.state(kind, template), SETTLED_WITHIN_S, what)

    def actions(self, kind: str) -> list[str]:
        return _actions(self.engine, self.name(kind))


def _actions(engine: Engine, name: str) -> list[str]:
    window = ("--since", "1", "--until", f"{time.time():.3f}")
    text = engine.docker("events", *window, "--filter", "type=container", "--format", "{{json .}}").stdout
    events = [json.loads(line) for line in text.splitlines()]
    return [one["Action"] for one in events if one["Actor"]["Attributes"].get("name") == name]


@pytest.mark.parametrize("process", PROCESSES)
def test_what_happens_in_the_moment_of_a_kill_is_not_lost(engine: Engine, process: str, tmp_path: Path) -> None:
    now = Round(engine, process, tmp_path)
    now.run("ends", "exit 7")
    now.run("rests", "exit 5", "--rm", "-v", "/anonymous", "-p", "80")
    now.run("again", "[ -e /tmp/ran ] || { touch /tmp/ran; exit 3; }; sleep 600", "--restart", "on-failure:3")
    now.run("goes", "sleep 600", "-p", "80")
    waiting = engine.docker_popen("wait", now.name("ends"), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    time.sleep(0.3)  # the question has arrived
    victim = now.victim()
    removing = engine.docker_popen("rm", "-f", now.name("goes"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    (tmp_path / "now").touch()
    time.sleep(random.uniform(0, 0.06))
    os.kill(victim, signal.SIGKILL)

    now.becomes("ends", "{{.State.Status}} {{.State.ExitCode}}", "exited 7")
    now.becomes("again", "{{.State.Status}} {{.RestartCount}}", "running 1")
    now.becomes("rests", "{{.State.Status}}", "No such")
    told, said = waiting.communicate(timeout=60)
    if process not in CLIENTS_OF:
        assert (told, waiting.returncode) == (b"7\n", 0), said
    assert engine.docker("wait", now.name("ends")).stdout == "7\n"
    _, complaint = removing.communicate(timeout=60)
    if process in CLIENTS_OF:
        engine.docker("rm", "-f", now.name("goes"), timeout_s=60)
    else:
        assert removing.returncode == 0, complaint
    assert "No such" in now.state("goes", "{{.Id}}")

    assert now.actions("ends") == ["create", "start", "die"]
    assert now.actions("rests") == ["create", "start", "die", "destroy"]
    assert sorted(now.actions("again")) == ["create", "die", "start", "start"]
    gone = now.actions("goes")
    assert (gone.count("die"), gone.count("destroy"), gone[-1]) == (1, 1, "destroy"), gone
    engine.docker("rm", "-f", now.name("ends"), now.name("again"), timeout_s=60)
    eventually(lambda: not any((engine.data / "containers").iterdir()), SETTLED_WITHIN_S, "an empty node")
    assert engine.docker("volume", "ls", "-q").stdout == ""


@pytest.mark.parametrize(
    ("meanwhile", "state"), [("goes on", "running 0"), ("ends", "exited 7"), ("its shim is killed", "exited 255")]
)
def test_a_start_that_the_agent_had_no_time_to_write_down(
    engine: Engine, meanwhile: str, state: str, tmp_path: Path
) -> None:
    """The record says that the container starts; what became of it, the next agent finds out."""
    now = Round(engine, meanwhile.split()[-1], tmp_path)
    agent = engine.pids()["agent"]
    now.run("brief", "exit 7")
    os.kill(agent, signal.SIGKILL)
    started = now.state("brief", "{{.State.StartedAt}}")
    record = engine.data / "containers" / now.state("brief", "{{.Id}}") / "record.json"
    assert json.loads(record.read_bytes())["status"] == "starting"
    if meanwhile == "ends":
        (tmp_path / "now").touch()
    elif meanwhile == "its shim is killed":
        pid = int(now.state("brief", "{{.State.Pid}}"))
        os.kill(int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1]), signal.SIGKILL)
    now.becomes("brief", "{{.State.Status}} {{.State.ExitCode}}", state)
    eventually(lambda: json.loads(record.read_bytes())["status"] == state.split()[0], 15, "a record of that")
    assert now.state("brief", "{{.State.StartedAt}}") == started
    if meanwhile != "goes on":
        groups = Path("/sys/fs/cgroup").glob(f"**/davit/{record.parent.name}")
        assert not list(groups), "a cgroup of a container that has ended"
    told = ["create", "start", *["die"] * (state != "running 0")]
    eventually(lambda: now.actions("brief") == told, 15, "its events")
    engine.docker("rm", "-f", now.name("brief"), timeout_s=60)


def test_an_exit_that_a_restart_followed_is_told_by_the_next_agent(engine: Engine, tmp_path: Path) -> None:
    """Control hears of nothing, the container ends and restarts, and the agent that knew of it is killed."""
    now = Round(engine, "told", tmp_path)
    now.run("again", "[ -e /tmp/ran ] || { touch /tmp/ran; exit 3; }; sleep 600", "--restart", "on-failure:3")
    container_id = now.state("again", "{{.Id}}")
    file = engine.data / "containers" / container_id / "record.json"
    agent, control = engine.pids()["agent"], engine.kill("control", signal.SIGSTOP)
    try:
        (tmp_path / "now").touch()
        eventually(lambda: (record := json.loads(file.read_bytes()))["run"] == 2 and record["status"] == "running", 15)
        os.kill(agent, signal.SIGKILL)
        time.sleep(REPORT_DEADLINE_S + 1)  # what it had sent is too old for control to look at
    finally:
        os.kill(control, signal.SIGCONT)
    now.becomes("again", "{{.State.Status}} {{.RestartCount}}", "running 1")
    eventually(lambda: sorted(now.actions("again")) == ["create", "die", "start", "start"], 15, "all of its life")
    eventually(lambda: not json.loads(file.read_bytes()).get("owed"), 15, "a report that is acknowledged")
    engine.docker("rm", "-f", now.name("again"))


def test_execs_outlive_the_agent_and_their_ends_are_told(engine: Engine) -> None:
    """One ends while there is no agent, one after the next agent has found it, and one is killed with its shim."""
    engine.docker("run", "-d", "--name", "host", "busybox", "sleep", "600")
    http = docker.APIClient(base_url=engine.url)
    ids = [http.exec_create("host", ["sh", "-c", f"sleep {seconds}; exit {code}"])["Id"] for seconds, code in EXECS]
    for one in ids:
        http.exec_start(one, detach=True)
    lost = http.exec_create("host", ["sleep", "600"])["Id"]
    http.exec_start(lost, detach=True)
    shim = int(Path(f"/proc/{http.exec_inspect(lost)['Pid']}/stat").read_text().rpartition(")")[2].split()[1])
    pids = engine.pids()
    os.kill(pids["supervisor"], signal.SIGSTOP)  # who would start the agent again
    try:
        os.kill(pids["agent"], signal.SIGKILL)
        os.kill(shim, signal.SIGKILL)
        time.sleep(EXECS[0][0] + 1)
    finally:
        os.kill(pids["supervisor"], signal.SIGCONT)
    codes = [code for _, code in EXECS]
    told = eventually(lambda: [http.exec_inspect(one)["ExitCode"] for one in ids] == codes, 20, "both ends")
    assert told
    eventually(lambda: http.exec_inspect(lost)["ExitCode"] == 137, 30, "the end of the exec that nobody saw")
    happened = [event for event in _actions(engine, "host") if event.startswith("exec_")]
    assert [event.split(":")[0] for event in happened] == [
        *["exec_create"] * 2, *["exec_start"] * 2, "exec_create", "exec_start", *["exec_die"] * 3
    ]  # fmt: skip
    directory = engine.data / "containers" / engine.docker("inspect", "-f", "{{.Id}}", "host").stdout.strip()
    eventually(lambda: not [*directory.glob("exec-*"), *(engine.run_dir / "s").glob(f"e{'?' * 16}.sock")], 10)
    http.close()
    engine.docker("rm", "-f", "host")
