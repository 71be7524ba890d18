"""davit-runc as a runtime of the reference engine: what the docker CLI does with it must come out as with runc."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.runtime.conftest import commands
from tests.lab.engine import eventually
from tests.lab.reference import ReferenceEngine

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]
MEGA = 1024 * 1024


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReferenceEngine]:
    if not ReferenceEngine.available():
        pytest.skip("the reference engine is not installed")
    command = commands()["davit-runc"]
    assert command is not None
    program = tmp_path_factory.mktemp("runtime") / "davit-runc"
    quoted = " ".join("'" + word.replace("'", "'\\''") + "'" for word in command)
    program.write_text(f'#!/bin/sh\nexec {quoted} "$@"\n')
    program.chmod(0o755)
    with ReferenceEngine("--add-runtime", f"davit={program}") as found:
        found.import_busybox()
        yield found


@pytest.fixture(params=["davit", "runc"])
def runtime(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def running(engine: ReferenceEngine, runtime: str) -> Iterator[str]:
    """A container with limits."""
    limits = ("-m", "64m", "--cpus", "0.5", "--pids-limit", "50")
    container = engine.docker("run", "-d", "--runtime", runtime, *limits, "busybox", "sleep", "300").stdout.strip()
    yield container
    engine.docker("rm", "-f", container)


def run(engine: ReferenceEngine, runtime: str, *words: str) -> tuple[int, str, str]:
    done = engine.docker("run", "--rm", "--runtime", runtime, *words, check=False)
    return done.returncode, done.stdout.strip(), done.stderr


def test_output_and_exit_codes(engine: ReferenceEngine, runtime: str) -> None:
    assert run(engine, runtime, "busybox", "echo", "hello")[:2] == (0, "hello")
    assert run(engine, runtime, "busybox", "sh", "-c", "exit 7")[0] == 7
    assert run(engine, runtime, "-t", "busybox", "tty")[:2] == (0, "/dev/pts/0")


@pytest.mark.parametrize(("command", "code"), [("no-such-program", 127), ("/etc", 126)])
def test_what_cannot_be_executed(engine: ReferenceEngine, runtime: str, command: str, code: int) -> None:
    assert run(engine, runtime, "busybox", command)[0] == code


def test_out_of_memory(engine: ReferenceEngine, runtime: str) -> None:
    """Its engine learns of the kill and of the exit on two ways, and now and then takes the exit for the first."""
    name = f"oom-{runtime}"
    script = ("--name", name, "-m", "16m", "--memory-swap", "16m", "busybox", "tail", "/dev/zero")

    def told() -> bool:
        assert engine.docker("run", "--runtime", runtime, *script, check=False).returncode == 137
        shown = engine.docker("inspect", "-f", "{{.State.OOMKilled}}", name).stdout.strip()
        engine.docker("rm", name)
        return shown == "true"

    assert any(told() for _ in range(4))


def test_exec(engine: ReferenceEngine, running: str) -> None:
    assert engine.docker("exec", "-w", "/tmp", "-e", "A=b", running, "sh", "-c", "pwd; echo $A").stdout == "/tmp\nb\n"
    assert engine.docker("exec", running, "sh", "-c", "exit 5", check=False).returncode == 5
    assert engine.docker("exec", "-t", running, "tty").stdout.strip() == "/dev/pts/0"
    assert engine.docker("exec", "-u", "nobody", running, "id", "-u").stdout.strip() == "65534"


def test_limits_statistics_and_updates(engine: ReferenceEngine, running: str) -> None:
    shown = engine.docker("stats", "--no-stream", "--format", "{{.MemUsage}} {{.PIDs}}", running).stdout
    assert shown.strip().endswith("/ 64MiB 1")
    engine.docker("update", "-m", "32m", "--memory-swap", "64m", running)
    shown = engine.docker("stats", "--no-stream", "--format", "{{.MemUsage}}", running).stdout
    assert shown.strip().endswith("/ 32MiB")


def test_pause_top_and_restart(engine: ReferenceEngine, running: str) -> None:
    status = ("inspect", "-f", "{{.State.Status}}", running)
    engine.docker("pause", running)
    assert engine.docker(*status).stdout.strip() == "paused"
    engine.docker("unpause", running)
    assert "sleep 300" in engine.docker("top", running).stdout
    engine.docker("restart", "-t", "0", running)
    assert engine.docker(*status).stdout.strip() == "running"
    engine.docker("kill", running)
    assert engine.docker(*status).stdout.strip() == "exited"


def test_volumes_and_users(engine: ReferenceEngine, runtime: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").write_text("shared\n")
    for directory in (tmp_path, *tmp_path.parents[:2]):
        directory.chmod(0o755)
    words = ("-v", f"{tmp_path}/data:/data:ro", "-u", "1000:1000", "--read-only", "--tmpfs", "/run")
    script = "cat /data/file; touch /data/x 2>/dev/null || echo read-only; touch /run/x && id -u"
    code, out, _ = run(engine, runtime, *words, "busybox", "sh", "-c", script)
    assert (code, out.split()) == (0, ["shared", "read-only", "1000"])


def inspected(engine: ReferenceEngine, container: str, field: str) -> str:
    return engine.docker("inspect", "-f", f"{{{{{field}}}}}", container).stdout.strip()


def until(fd: int, text: str, timeout_s: float = 15) -> str:
    seen = ""
    deadline = time.monotonic() + timeout_s
    while text not in seen:
        assert time.monotonic() < deadline, f"{text!r} not seen in {seen!r}"
        if select.select([fd], [], [], 0.2)[0]:
            seen += os.read(fd, 4096).decode(errors="replace")
    return seen


def resize(fd: int, rows: int, columns: int) -> None:
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def in_terminal(engine: ReferenceEngine, *words: str) -> tuple[int, subprocess.Popen[bytes]]:
    """A docker CLI on a terminal of 33 lines and 99 columns: (our end, the process)."""
    master, slave = pty.openpty()
    resize(slave, 33, 99)
    process = subprocess.Popen(
        ["docker", *words], env=engine.environment, stdin=slave, stdout=slave, stderr=slave, start_new_session=True
    )
    os.close(slave)
    return master, process


def test_input_streams_and_attach(engine: ReferenceEngine, runtime: str) -> None:
    words = ("run", "--rm", "-i", "--runtime", runtime, "busybox", "sh", "-c", "cat; echo err >&2; exit 3")
    done = engine.docker(*words, stdin="through\n", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, "through\n", "err\n")
    container = engine.docker("create", "--runtime", runtime, "busybox", "sh", "-c", "echo out; exit 4").stdout.strip()
    started = engine.docker("start", "-a", container, check=False)
    assert (started.returncode, started.stdout) == (4, "out\n")
    assert engine.docker("logs", container).stdout == "out\n"
    engine.docker("rm", container)


def test_terminals_have_the_clients_size_and_follow_it(engine: ReferenceEngine, runtime: str) -> None:
    name = f"terminal-{runtime}"
    master, process = in_terminal(engine, "run", "-it", "--name", name, "--runtime", runtime, "busybox", "sh")
    until(master, "# ")
    time.sleep(0.5)  # the CLI sends the size after the start
    os.write(master, b"stty size\n")
    until(master, "33 99")
    resize(master, 44, 88)
    os.kill(process.pid, signal.SIGWINCH)
    time.sleep(0.5)
    os.write(master, b"stty size; tty\n")
    seen = until(master, "/dev/pts/0")
    assert "44 88" in seen

    second, execed = in_terminal(engine, "exec", "-it", name, "sh")
    until(second, "# ")
    time.sleep(0.5)
    os.write(second, b"stty size; exit 9\n")
    until(second, "33 99")
    assert execed.wait(15) == 9
    os.close(second)

    os.write(master, b"exit 5\n")
    assert process.wait(15) == 5
    os.close(master)
    engine.docker("rm", name)


@pytest.mark.slow
def test_signals_and_the_time_to_stop(engine: ReferenceEngine, runtime: str) -> None:
    script = "trap 'exit 42' TERM; trap 'echo hup' HUP; echo up; while :; do sleep 0.1; done"
    container = engine.docker("run", "-d", "--runtime", runtime, "busybox", "sh", "-c", script).stdout.strip()
    eventually(lambda: "up" in engine.docker("logs", container).stdout, 10, "the start")
    engine.docker("kill", "-s", "HUP", container)
    eventually(lambda: "hup" in engine.docker("logs", container).stdout, 10, "the signal")
    engine.docker("stop", "-t", "20", container)
    assert inspected(engine, container, ".State.ExitCode") == "42"
    engine.docker("rm", container)


@pytest.mark.slow
def test_restart_policy(engine: ReferenceEngine, runtime: str) -> None:
    words = ("run", "-d", "--restart", "on-failure:2", "--runtime", runtime, "busybox", "false")
    container = engine.docker(*words).stdout.strip()
    shown = ".RestartCount}} {{.State.Status}} {{.State.ExitCode"
    eventually(lambda: inspected(engine, container, shown) == "2 exited 1", 20, "two restarts")
    engine.docker("rm", container)


@pytest.mark.slow
def test_health(engine: ReferenceEngine, runtime: str) -> None:
    check = ("--health-cmd", "test -e /tmp/ill && exit 1 || exit 0", "--health-interval", "1s", "--health-retries", "1")
    words = ("run", "-d", *check, "--runtime", runtime, "busybox", "sleep", "300")
    container = engine.docker(*words).stdout.strip()
    eventually(lambda: inspected(engine, container, ".State.Health.Status") == "healthy", 15, "health")
    engine.docker("exec", container, "touch", "/tmp/ill")
    eventually(lambda: inspected(engine, container, ".State.Health.Status") == "unhealthy", 15, "illness")
    engine.docker("rm", "-f", container)


@pytest.mark.slow
def test_what_a_pause_forbids_and_allows(engine: ReferenceEngine, running: str) -> None:
    engine.docker("pause", running)
    assert "is paused" in engine.docker("exec", running, "true", check=False).stderr
    engine.docker("update", "--cpus", "0.25", running)
    engine.docker("unpause", running)
    assert engine.docker("exec", running, "echo", "thawed").stdout == "thawed\n"
    engine.docker("pause", running)
    engine.docker("rm", "-f", running)
    assert running not in engine.docker("ps", "-aq", "--no-trunc").stdout


@pytest.mark.slow
def test_updates_reach_the_control_groups(engine: ReferenceEngine, running: str) -> None:
    engine.docker("update", "--cpus", "0.25", "--cpu-shares", "512", "--pids-limit", "20", "-m", "48m",
                  "--memory-swap", "96m", running)  # fmt: skip
    pid = inspected(engine, running, ".State.Pid")
    places = [line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
    path = {name: place for _, names, place in places for name in names.split(",")}
    if "memory" in path:
        found = {
            name: Path(f"/sys/fs/cgroup/{name.partition('.')[0]}{path[name.partition('.')[0]]}/{name}")
            .read_text()
            .strip()
            for name in (
                "cpu.cfs_quota_us",
                "cpu.shares",
                "pids.max",
                "memory.limit_in_bytes",
                "memory.memsw.limit_in_bytes",
            )
        }
        assert list(found.values()) == ["25000", "512", "20", str(48 * MEGA), str(96 * MEGA)]
    else:
        directory = Path(f"/sys/fs/cgroup{path['']}")
        names = ("cpu.max", "pids.max", "memory.max", "memory.swap.max")
        found = {name: (directory / name).read_text().strip() for name in names}
        assert list(found.values()) == ["25000 100000", "20", str(48 * MEGA), str(48 * MEGA)]


@pytest.mark.slow
def test_namespaces_of_others(engine: ReferenceEngine, runtime: str) -> None:
    words = ("run", "-d", "--ipc", "shareable", "--runtime", runtime, "busybox", "sleep", "300")
    donor = engine.docker(*words).stdout.strip()
    engine.docker("exec", donor, "touch", "/dev/shm/common")
    joined = (f"--{kind}=container:{donor}" for kind in ("ipc", "pid", "network"))
    code, out, _ = run(engine, runtime, *joined, "busybox", "sh", "-c", "ls /dev/shm; ps; readlink /proc/self/ns/net")
    assert code == 0
    assert "common" in out
    assert "sleep 300" in out
    assert engine.docker("exec", donor, "readlink", "/proc/self/ns/net").stdout.strip() in out
    engine.docker("rm", "-f", donor)
    assert run(engine, runtime, "--pid", "host", "busybox", "readlink", "/proc/self/ns/pid")[1] == os.readlink(
        "/proc/self/ns/pid"
    )


@pytest.mark.slow
def test_init_privileges_and_devices(engine: ReferenceEngine, runtime: str) -> None:
    assert run(engine, runtime, "--init", "busybox", "cat", "/proc/1/comm")[1] == "docker-init"
    mount = ("busybox", "sh", "-c", "mount -t tmpfs x /mnt 2>/dev/null && echo mounted || echo refused")
    assert run(engine, runtime, "--tmpfs", "/mnt", *mount)[1] == "refused"
    assert run(engine, runtime, "--tmpfs", "/mnt", "--cap-add", "SYS_ADMIN", *mount)[1] == "mounted"
    device = next(path for path in ("/dev/loop-control", "/dev/net/tun", "/dev/kvm") if os.path.exists(path))
    opened = ("busybox", "sh", "-c", "(exec 3< /dev/other) && echo read; (exec 3> /dev/other) && echo write")
    assert run(engine, runtime, "--device", f"{device}:/dev/other:r", *opened)[1] == "read"
    assert run(engine, runtime, "--device", f"{device}:/dev/other", *opened)[1].split() == ["read", "write"]


@pytest.mark.slow
def test_published_ports(engine: ReferenceEngine, runtime: str) -> None:
    words = (
        "-p",
        "18090:80",
        "--runtime",
        runtime,
        "busybox",
        "sh",
        "-c",
        "echo page > index.html; exec httpd -f -p 80",
    )
    container = engine.docker("run", "-d", *words).stdout.strip()
    ask = [*engine.netns.enter, "curl", "-sf", "http://127.0.0.1:18090/"]
    eventually(lambda: subprocess.run(ask, capture_output=True, check=False).stdout == b"page\n", 10, "the page")
    engine.docker("rm", "-f", container)


@pytest.mark.slow
def test_files_go_in_and_out(engine: ReferenceEngine, running: str, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("copied\n")
    engine.docker("cp", str(tmp_path / "in"), f"{running}:/tmp/in")
    assert engine.docker("exec", running, "cat", "/tmp/in").stdout == "copied\n"
    engine.docker("cp", f"{running}:/tmp/in", str(tmp_path / "out"))
    assert (tmp_path / "out").read_text() == "copied\n"
    assert "A /tmp/in" in engine.docker("diff", running).stdout
