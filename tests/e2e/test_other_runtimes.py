"""Containers in other OCI runtimes: to a user of the docker CLI the same as in davit's own."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.executor.runtime.state import is_zombie
from tests.conftest import missing
from tests.e2e.conftest import require_root
from tests.lab.engine import ROOT, Engine, eventually

pytestmark = pytest.mark.root
RUNC = shutil.which("runc", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
OURS = (
    f"import sys; sys.path.insert(0, {str(ROOT)!r}); from services.executor.runtime.cli import main; sys.exit(main())"
)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An engine whose default is Debian's runc; a file and a flag name a runtime each."""
    require_root()
    if RUNC is None:
        missing("runc")
    directory = tmp_path_factory.mktemp("runtimes")
    ours = directory / "davit-runc"
    ours.write_text(f'#!/bin/sh\nexec {sys.executable} -E -s -c "{OURS}" "$@"\n')
    ours.chmod(0o755)
    recording = directory / "recording"
    recording.write_text(f'#!/bin/sh\necho "$1 $2" >> {directory}/said\nshift\nexec {RUNC} "$@"\n')
    recording.chmod(0o755)
    slow = directory / "slow"
    slow.write_text(
        f'#!/bin/sh\ncase "$*" in *" create "*) sleep 0.5; {RUNC} "$@"; code=$?; sleep 0.5; exit $code;; esac\n'
        f'exec {RUNC} "$@"\n'
    )
    slow.chmod(0o755)
    file = directory / "daemon.json"
    runtimes: dict[str, Any] = {
        "runc": {"path": RUNC},
        "recording": {"path": str(recording), "runtimeArgs": ["first", "--debug"]},
        "slow": {"path": str(slow)},
        "gone": {"path": "/nowhere/gone"},
    }
    file.write_text(json.dumps({"runtimes": runtimes, "default-runtime": "runc"}))
    with Engine("--config-file", str(file), "--add-runtime", f"ours={ours}") as one:
        one.import_busybox()
        yield one


def output(engine: Engine, *arguments: str, **options: Any) -> str:
    return engine.docker(*arguments, **options).stdout.strip()


def run(engine: Engine, *arguments: str) -> str:
    return output(engine, "run", "--rm", *arguments)


def pid_of(engine: Engine, name: str) -> int:
    return int(output(engine, "inspect", "-f", "{{.State.Pid}}", name))


def shim_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def traces(engine: Engine) -> list[str]:
    """What runtimes and their containers have left."""
    mounts = Path("/proc/self/mountinfo").read_text()
    states = [str(path) for path in (engine.run_dir / "runtimes").glob("*/*")]
    return states + [line for line in mounts.splitlines() if str(engine.base) in line and "rootfs" in line]


class TestConfiguration:
    def test_info_shows_them(self, engine: Engine) -> None:
        info = json.loads(output(engine, "info", "--format", "{{json .}}"))
        assert info["DefaultRuntime"] == "runc"
        assert info["Runtimes"]["runc"] == {"path": RUNC}
        assert info["Runtimes"]["recording"]["runtimeArgs"] == ["first", "--debug"]
        assert info["Runtimes"]["davit"] == {"path": "davit-runc"}
        assert {"ours", "io.containerd.runc.v2"} < set(info["Runtimes"])
        assert "gone" not in info["Runtimes"]
        assert "WARNING: runtime gone: there is no executable /nowhere/gone" in info["Warnings"]

    @pytest.mark.parametrize("name", ["gone", "nosuch"])
    def test_an_unknown_one_is_refused(self, engine: Engine, name: str) -> None:
        refused = engine.docker("run", "--rm", "--runtime", name, "busybox", "true", check=False)
        assert refused.returncode == 125
        assert f"unknown or invalid runtime name: {name}" in refused.stderr
        assert output(engine, "ps", "-aq") == ""

    def test_inspect_says_which(self, engine: Engine) -> None:
        engine.docker("create", "--name", "default", "busybox")
        engine.docker("create", "--name", "chosen", "--runtime", "davit", "busybox")
        assert output(engine, "inspect", "-f", "{{.HostConfig.Runtime}}", "default", "chosen").split() == [
            "runc",
            "davit",
        ]

    def test_arguments_are_passed(self, engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> None:
        assert run(engine, "--runtime", "recording", "busybox", "echo", "heard") == "heard"
        path = json.loads(output(engine, "info", "--format", "{{json .Runtimes}}"))["recording"]["path"]
        said = Path(path).with_name("said").read_text().splitlines()
        assert set(said) == {"first --debug"}
        assert len(said) >= 3  # create, start, delete

    def test_a_reload_brings_and_takes_runtimes(self, engine: Engine) -> None:
        file = Path(engine.arguments[1])
        before = file.read_text()
        values = json.loads(before)
        values["runtimes"]["later"] = values["runtimes"].pop("recording")
        values["default-runtime"] = "later"
        file.write_text(json.dumps(values))
        try:
            os.kill(engine.pids()["supervisor"], signal.SIGHUP)
            eventually(lambda: output(engine, "info", "--format", "{{.DefaultRuntime}}") == "later", 10, "the reload")
            assert run(engine, "busybox", "echo", "later") == "later"
            assert engine.docker("create", "--runtime", "recording", "busybox", check=False).returncode == 1
        finally:
            file.write_text(before)
            os.kill(engine.pids()["supervisor"], signal.SIGHUP)
            eventually(lambda: output(engine, "info", "--format", "{{.DefaultRuntime}}") == "runc", 10, "the reload")


@pytest.mark.parametrize("runtime", ["runc", "ours"])
class TestEach:
    def test_streams_input_and_exit_code(self, engine: Engine, runtime: str) -> None:
        script = "cat; echo err >&2; exit 7"
        words = ("run", "--rm", "-i", "--runtime", runtime, "busybox", "sh", "-c", script)
        result = engine.docker(*words, stdin="in\n", check=False)
        assert (result.returncode, result.stdout, result.stderr) == (7, "in\n", "err\n")
        assert traces(engine) == []

    @pytest.mark.parametrize(("command", "code"), [("nosuchcommand", 127), ("/nosuch/path", 127), ("/etc/passwd", 126)])
    def test_what_cannot_be_executed(self, engine: Engine, runtime: str, command: str, code: int) -> None:
        words = ("--name", "bad", "--runtime", runtime, "busybox", command)
        refused = engine.docker("run", *words, check=False)
        assert refused.returncode == code
        assert f'exec: "{command}": ' in refused.stderr
        assert output(engine, "inspect", "-f", "{{.State.ExitCode}}", "bad") == str(code)
        assert traces(engine) == []

    def test_execs(self, engine: Engine, runtime: str) -> None:
        engine.docker("run", "-d", "--name", "base", "--runtime", runtime, "busybox", "sleep", "300")
        done = engine.docker("exec", "-i", "-e", "A=b", "-w", "/tmp", "base", "sh", "-c", "pwd; echo $A; cat; exit 5",
                             stdin="in\n", check=False)  # fmt: skip
        assert (done.returncode, done.stdout) == (5, "/tmp\nb\nin\n")
        assert output(engine, "exec", "-u", "nobody", "base", "id", "-un") == "nobody"
        assert output(engine, "exec", "-t", "base", "tty").startswith("/dev/pts/")
        assert engine.docker("exec", "base", "nosuch", check=False).returncode == 127
        assert engine.docker("exec", "base", "/etc/passwd", check=False).returncode == 126
        engine.docker("exec", "-d", "base", "sleep", "200")
        assert "sleep 200" in output(engine, "top", "base")
        names = [path.name for path in (engine.data / "containers").glob("*/exec-*")]
        assert all(not name.endswith((".pid", ".log", ".process")) for name in names)

    def test_a_terminal_with_size(self, engine: Engine, runtime: str) -> None:
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 99, 0, 0))
        process = subprocess.Popen(
            ["docker", "run", "--rm", "-it", "--runtime", runtime, "busybox", "sh"],
            env=engine.environment, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
        )  # fmt: skip
        os.close(slave)
        seen = _until(master, "# ")
        time.sleep(0.5)  # the CLI sends the size after the start
        os.write(master, b"stty size; exit 3\n")
        assert "33 99" in seen + _until(master, "33 99")
        assert process.wait(10) == 3
        os.close(master)

    def test_it_is_as_confined_as_in_davits_own(self, engine: Engine, runtime: str) -> None:
        script = "grep -E 'Cap|Seccomp:|NoNewPrivs|Groups|Uid|Gid' /proc/self/status; ulimit -n; env | sort; pwd"
        for options in ([], ["-u", "1234:56", "--group-add", "7"], ["--cap-drop", "ALL", "--ulimit", "nofile=99:999"]):
            words = ("--hostname", "h", *options, "busybox", "sh", "-c", script)
            assert run(engine, "--runtime", runtime, *words) == run(engine, "--runtime", "davit", *words)


class TestRunc:
    def test_users_directories_names_and_mounts(self, engine: Engine, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("bound\n")
        tmp_path.chmod(0o755)
        words = ("-v", f"{tmp_path}:/b:ro", "-v", "vol:/v", "--tmpfs", "/t", "--read-only", "--domainname", "dom",
                 "--hostname", "ho", "-w", "/tmp", "--init")  # fmt: skip
        script = (
            "cat /b/file; touch /v/x /t/x; touch /x 2>&1; hostname; cat /proc/sys/kernel/domainname /proc/1/comm; pwd"
        )
        assert run(engine, *words, "busybox", "sh", "-c", script).split("\n") == [
            "bound", "touch: /x: Read-only file system", "ho", "dom", "docker-init", "/tmp",
        ]  # fmt: skip
        engine.docker("volume", "rm", "vol")
        unknown = engine.docker("run", "--rm", "-u", "nosuch", "busybox", "true", check=False)
        assert unknown.returncode == 125
        assert "unable to find user nosuch: no matching entries in passwd file" in unknown.stderr

    def test_a_shared_mount_reaches_the_host_and_nothing_else_does(self, engine: Engine, tmp_path: Path) -> None:
        place = tmp_path / "shared"
        place.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place], check=True)
        try:
            subprocess.run(["mount", "--make-shared", place], check=True)
            script = "mkdir /s/in && mount -t tmpfs in /s/in && touch /s/in/file && sleep 300"
            words = ("--privileged", "-v", f"{place}:/s:rshared", "busybox", "sh", "-c", script)
            engine.docker("run", "-d", "--name", "mounts", *words)
            eventually((place / "in" / "file").exists, 5, "the mount")
            assert traces(engine) == [
                str(engine.run_dir / "runtimes" / "runc" / output(engine, "ps", "-q", "--no-trunc"))
            ]
            engine.docker("exec", "mounts", "umount", "/s/in")
            assert not (place / "in" / "file").exists()
            engine.docker("rm", "-f", "mounts")
        finally:
            subprocess.run(["umount", "-R", place], check=True)

    def test_networks(self, engine: Engine, tmp_path: Path) -> None:
        (tmp_path / "index.html").write_text("it works\n")
        tmp_path.chmod(0o755)
        engine.docker("network", "create", "own")
        engine.docker("run", "-d", "--name", "web", "--network", "own", "-p", "18081:80", "-v", f"{tmp_path}:/www:ro",
                      "busybox", "httpd", "-f", "-h", "/www")  # fmt: skip
        eventually(
            lambda: "works" in engine.inside("curl", "-sf", "http://127.0.0.1:18081/", check=False).stdout,
            5,
            "the page",
        )
        assert run(engine, "--network", "own", "busybox", "wget", "-qO-", "http://web/") == "it works"
        assert run(engine, "--network", "container:web", "busybox", "wget", "-qO-", "http://127.0.0.1/") == "it works"
        assert run(engine, "--network", "none", "busybox", "ls", "/sys/class/net") == "lo"
        engine.docker("rm", "-f", "web")
        engine.docker("network", "rm", "own")

    def test_namespaces_of_another_container(self, engine: Engine) -> None:
        engine.docker("run", "-d", "--name", "donor", "--ipc", "shareable", "busybox", "sleep", "300")
        engine.docker("exec", "donor", "touch", "/dev/shm/common")
        words = ("--ipc", "container:donor", "--pid", "container:donor", "busybox", "sh", "-c", "ls /dev/shm; ps")
        for runtime in ("runc", "davit"):
            shown = run(engine, "--runtime", runtime, *words)
            assert "common" in shown
            assert "sleep 300" in shown

    def test_limits_statistics_update_pause(self, engine: Engine) -> None:
        limits = ("-m", "64m", "--cpus", "0.5", "--pids-limit", "50")
        engine.docker("run", "-d", "--name", "base", *limits, "busybox", "sleep", "300")
        stats = ("stats", "--no-stream", "--format", "{{.MemUsage}} {{.PIDs}}", "base")
        assert output(engine, *stats).endswith("/ 64MiB 1")
        engine.docker("update", "-m", "32m", "--memory-swap", "64m", "base")
        assert output(engine, *stats).endswith("/ 32MiB 1")
        engine.docker("pause", "base")
        assert output(engine, "inspect", "-f", "{{.State.Status}}", "base") == "paused"
        assert engine.docker("exec", "base", "true", check=False).returncode == 1
        engine.docker("unpause", "base")
        assert output(engine, "exec", "base", "echo", "thawed") == "thawed"
        engine.docker("pause", "base")
        engine.docker("kill", "base")
        assert output(engine, "inspect", "-f", "{{.State.ExitCode}}", "base") == "137"
        oom = engine.docker("run", "--name", "oom", "-m", "16m", "--memory-swap", "16m", "busybox", "tail", "/dev/zero",
                            check=False)  # fmt: skip
        assert oom.returncode == 137
        assert output(engine, "inspect", "-f", "{{.State.OOMKilled}}", "oom") == "true"
        assert traces(engine) == []

    def test_files_and_logs(self, engine: Engine, tmp_path: Path) -> None:
        engine.docker("run", "-d", "--name", "base", "busybox", "sh", "-c", "echo logged; exec sleep 300")
        (tmp_path / "in").write_text("copied\n")
        engine.docker("cp", str(tmp_path / "in"), "base:/tmp/in")
        assert output(engine, "exec", "base", "cat", "/tmp/in") == "copied"
        assert output(engine, "logs", "base") == "logged"
        assert "A /tmp/in" in output(engine, "diff", "base")
        engine.docker("stop", "-t", "0", "base")
        engine.docker("cp", "base:/tmp/in", str(tmp_path / "out"))
        assert (tmp_path / "out").read_text() == "copied\n"
        engine.docker("start", "base")
        assert output(engine, "exec", "base", "cat", "/tmp/in") == "copied"
        eventually(lambda: output(engine, "logs", "base") == "logged\nlogged", 5, "the second line")

    def test_stop_restart_policy_and_health(self, engine: Engine) -> None:
        engine.docker("run", "-d", "--name", "soft", "--health-cmd", "true", "--health-interval", "1s", "busybox",
                      "sh", "-c", "trap 'exit 4' TERM; while :; do sleep 0.1; done")  # fmt: skip
        eventually(
            lambda: output(engine, "inspect", "-f", "{{.State.Health.Status}}", "soft") == "healthy", 10, "health"
        )
        engine.docker("restart", "soft")
        engine.docker("stop", "-t", "10", "soft")
        assert output(engine, "inspect", "-f", "{{.State.ExitCode}}", "soft") == "4"
        engine.docker("run", "-d", "--name", "again", "--restart", "on-failure:2", "busybox", "false")
        shown = ("inspect", "-f", "{{.RestartCount}} {{.State.Status}} {{.State.ExitCode}}", "again")
        eventually(lambda: output(engine, *shown) == "2 exited 1", 10, "two restarts")
        assert traces(engine) == []

    def test_it_outlives_the_agent(self, engine: Engine) -> None:
        script = "i=0; while ! [ -e /tmp/enough ]; do i=$((i + 1)); echo $i; sleep 0.1; done; exit 6"
        engine.docker("run", "-d", "--name", "base", "busybox", "sh", "-c", script)
        pid = pid_of(engine, "base")
        killed = engine.kill("agent")
        eventually(lambda: engine.pids().get("agent") not in (None, killed), 15, "another agent")
        assert output(engine, "exec", "base", "echo", "still here", timeout_s=30) == "still here"
        assert pid_of(engine, "base") == pid
        engine.docker("exec", "base", "touch", "/tmp/enough")
        assert output(engine, "wait", "base") == "6"
        lines = output(engine, "logs", "base").split()
        assert lines == [str(number) for number in range(1, len(lines) + 1)]
        assert len(lines) > 5
        assert traces(engine) == []

    def test_nothing_runs_without_its_shim(self, engine: Engine) -> None:
        """Nobody else would take its output, or notice its end."""
        engine.docker("run", "-d", "--name", "base", "--restart", "always", "busybox", "sleep", "300")
        engine.docker("run", "-d", "--name", "other", "busybox", "sleep", "300")
        first, other = pid_of(engine, "base"), pid_of(engine, "other")
        os.kill(shim_of(first), signal.SIGKILL)
        eventually(lambda: pid_of(engine, "base") not in (0, first), 10, "the restart")
        assert is_zombie(first)
        assert output(engine, "exec", "base", "echo", "back") == "back"
        # and when the agent was away as well
        agent = engine.kill("agent", signal.SIGSTOP)
        os.kill(shim_of(other), signal.SIGKILL)
        os.kill(agent, signal.SIGKILL)
        eventually(lambda: output(engine, "inspect", "-f", "{{.State.Status}}", "other") == "exited", 15, "its end")
        assert is_zombie(other)
        engine.docker("rm", "-f", "base", "other")
        eventually(lambda: traces(engine) == [], 5, "no trace")

    @pytest.mark.parametrize("after_s", [0.3, 0.8])
    def test_a_shim_killed_in_the_middle_of_a_start_leaves_nothing(self, engine: Engine, after_s: float) -> None:
        """Before and after the runtime has made the container."""
        container = output(engine, "create", "--runtime", "slow", "busybox", "sleep", "300")
        start = engine.docker_popen("start", container, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        shim = eventually(lambda: _shim_of_start(container), 5, "the runtime")
        time.sleep(after_s)
        os.kill(shim, signal.SIGKILL)
        assert start.wait(20) == 1
        eventually(lambda: not _processes(container), 5, "their end")
        assert traces(engine) == []
        engine.docker("start", container)
        assert output(engine, "exec", container, "echo", "started") == "started"

    def test_an_agent_killed_in_the_middle_of_a_start_finds_it_later(self, engine: Engine) -> None:
        container = output(engine, "create", "--runtime", "slow", "busybox", "sleep", "300")
        start = engine.docker_popen("start", container, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        eventually(lambda: _shim_of_start(container), 5, "the runtime")
        engine.kill("agent")
        start.wait(60)
        shown = ("inspect", "-f", "{{.State.Status}}", container)
        eventually(lambda: output(engine, *shown) == "running", 30, "its record")
        assert output(engine, "exec", container, "echo", "found", timeout_s=30) == "found"

    def test_a_failed_start_leaves_nothing_and_can_be_repeated(self, engine: Engine) -> None:
        engine.docker("create", "--name", "later", "busybox", "/tmp/prog")
        assert engine.docker("start", "later", check=False).returncode == 1
        assert traces(engine) == []
        tar = subprocess.run(
            ["sh", "-c", "cd $(mktemp -d) && printf '#!/bin/sh\necho now' > prog && chmod 755 prog && tar c prog"],
            capture_output=True, check=True,
        )  # fmt: skip
        subprocess.run(["docker", "cp", "-", "later:/tmp"], input=tar.stdout, env=engine.environment, check=True)
        assert output(engine, "start", "-a", "later") == "now"


def _processes(word: str) -> list[int]:
    """Processes with a word in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if (
                entry.name.isdigit()
                and word.encode() in (entry / "cmdline").read_bytes()
                and not is_zombie(int(entry.name))
            ):
                found.append(int(entry.name))
        except OSError:
            continue
    return [pid for pid in found if pid != os.getpid()]


def _shim_of_start(container: str) -> int | None:
    """The shim whose stage runs `create` of a container."""
    for pid in _processes(container):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if b"create" in words and b"--bundle" in words:
            return shim_of(shim_of(pid))
    return None


def _until(fd: int, text: str, timeout_s: float = 10) -> str:
    seen = ""
    deadline = time.monotonic() + timeout_s
    while not re.search(re.escape(text), seen):
        assert time.monotonic() < deadline, f"{text!r} not seen in {seen!r}"
        if select.select([fd], [], [], 0.2)[0]:
            seen += os.read(fd, 4096).decode()
    return seen
