"""davit-runc as podman's runtime, and runc as the control: an engine that is not Docker's, as an independent check."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.conformance.runtime.conftest import commands, eventually
from tests.conftest import missing
from tests.lab.engine import busybox_tar

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(180)]

# Its own defaults are beyond what root without CAP_SYS_RESOURCE may set.
SETTINGS = """
[containers]
default_ulimits = ["nofile=1024:4096", "nproc=1000:1000"]
[engine]
runtime_supports_json = ["runc", "davit-runc"]
"""
NOTHING = '{"default": [{"type": "insecureAcceptAnything"}]}'


class Podman:
    """podman with a store of its own and one runtime; no network, so nothing of the host's is touched."""

    def __init__(self, runtime: str, base: Path) -> None:
        self.base = base
        podman, conmon = shutil.which("podman"), shutil.which("conmon")
        if podman is None or conmon is None:
            missing("podman or conmon")
        (base / "containers.conf").write_text(SETTINGS)
        (base / "policy.json").write_text(NOTHING)
        self._command = [
            podman, "--root", f"{base}/store", "--runroot", f"{base}/run", "--tmpdir", f"{base}/tmp",
            "--storage-driver", "vfs", "--conmon", conmon, "--cgroup-manager", "cgroupfs",
            "--events-backend", "file", "--runtime", runtime,
        ]  # fmt: skip

    def __call__(self, *words: str, check: bool = True, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "CONTAINERS_CONF": f"{self.base}/containers.conf"}
        done = subprocess.run(
            [*self._command, *words],
            capture_output=True,
            text=True,
            input=stdin,
            env=environment,
            cwd=self.base,  # conmon leaves a file `oom` where it was started, when a container runs out of memory
            timeout=60,
            check=False,
        )
        assert not check or done.returncode == 0, f"{words}: {done}"
        return done

    def run(self, *words: str, stdin: str | None = None) -> tuple[int, str]:
        done = self("run", "--rm", "--network", "none", *(["-i"] if stdin else []), *words, check=False, stdin=stdin)
        return done.returncode, done.stdout.strip()


@pytest.fixture(scope="module", params=["davit-runc", "runc"])
def podman(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    if os.geteuid() != 0:
        missing("root")
    command = commands()[request.param]
    if command is None:
        pytest.skip(f"{request.param} is not installed")
    base = tmp_path_factory.mktemp("podman")
    program = base / request.param
    quoted = " ".join("'" + word.replace("'", "'\\''") + "'" for word in command)
    program.write_text(f'#!/bin/sh\nexec {quoted} "$@"\n')
    program.chmod(0o755)
    found = Podman(str(program), base)
    before = _kept()
    found("import", str(busybox_tar(base / "busybox.tar")), "busybox")
    yield found
    found("rm", "--force", "--all", "--time", "0")
    for path in _kept() - before:
        if path.is_dir():
            for directory in (*path.rglob("*/"), path):  # its monitors' groups
                eventually(partial(_removed, directory))
        else:
            path.unlink()


def _removed(directory: Path) -> bool:
    try:
        directory.rmdir()
    except FileNotFoundError:
        return True
    except OSError:  # a monitor is still ending
        return False
    return True


def _kept() -> set[Path]:
    """What podman keeps for ever: the parent of its control groups, and its locks."""
    parents = [*Path("/sys/fs/cgroup").glob("libpod_parent"), *Path("/sys/fs/cgroup").glob("*/libpod_parent")]
    return {path for path in (*parents, Path("/dev/shm/libpod_lock")) if path.exists() and not path.is_symlink()}


@pytest.fixture
def running(podman: Podman) -> Iterator[str]:
    """A container with limits."""
    limits = ("-m", "64m", "--pids-limit", "50")
    container = podman("run", "-d", "--network", "none", *limits, "busybox", "sleep", "300").stdout.strip()
    yield container
    podman("rm", "--force", "--time", "0", container)


def test_output_input_and_exit_codes(podman: Podman) -> None:
    assert podman.run("busybox", "cat", stdin="through\n") == (0, "through")
    assert podman.run("busybox", "sh", "-c", "exit 7") == (7, "")
    assert podman.run("-t", "busybox", "tty") == (0, "/dev/pts/0")
    assert podman.run("-m", "16m", "--memory-swap", "16m", "busybox", "tail", "/dev/zero")[0] == 137


@pytest.mark.parametrize(("program", "code"), [("no-such-program", 127), ("/etc", 126)])
def test_what_cannot_be_executed(podman: Podman, program: str, code: int) -> None:
    assert podman.run("busybox", program)[0] == code


def test_execs(podman: Podman, running: str) -> None:
    assert podman("exec", "-w", "/tmp", "-e", "A=b", running, "sh", "-c", "pwd; echo $A").stdout == "/tmp\nb\n"
    assert podman("exec", running, "sh", "-c", "exit 5", check=False).returncode == 5
    assert podman("exec", "-t", running, "tty").stdout.strip() == "/dev/pts/0"
    assert podman("exec", "-u", "nobody", running, "id", "-u").stdout.strip() == "65534"
    assert podman("exec", running, "no-such-program", check=False).returncode == 127
    podman("exec", "-d", running, "sleep", "200")
    assert "sleep 200" in podman("top", running).stdout


def test_limits_pause_and_updates(podman: Podman, running: str) -> None:
    usage = ("stats", "--no-stream", "--format", "{{.MemUsage}}", running)
    assert podman(*usage).stdout.strip().endswith("/ 67.11MB")
    podman("update", "-m", "32m", running)
    cgroup = podman("inspect", "-f", "{{.State.CgroupPath}}", running).stdout.strip()
    v1, v2 = Path(f"/sys/fs/cgroup/memory{cgroup}/memory.limit_in_bytes"), Path(f"/sys/fs/cgroup{cgroup}/memory.max")
    assert (v1 if v1.exists() else v2).read_text().strip() == str(32 << 20)
    status = ("inspect", "-f", "{{.State.Status}}", running)
    podman("pause", running)
    assert podman(*status).stdout.strip() == "paused"
    podman("unpause", running)
    assert podman("exec", running, "echo", "thawed").stdout == "thawed\n"


def test_life(podman: Podman, running: str) -> None:
    podman("restart", "-t", "0", running)
    podman("kill", running)
    assert podman("wait", running).stdout.strip() == "137"
    podman("start", running)
    assert podman("exec", running, "echo", "again").stdout == "again\n"
    podman("stop", "-t", "0", running)
    stopped = ("inspect", "-f", "{{.State.Status}}", running)
    eventually(lambda: podman(*stopped).stdout.strip() == "exited")


def test_configuration(podman: Podman, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("bound\n")
    for directory in (tmp_path, *tmp_path.parents[:2]):
        directory.chmod(0o755)
    confined = ("--read-only", "--tmpfs", "/run", "-v", f"{tmp_path}:/b:ro", "-u", "1000:1000", "--cap-drop", "all")
    script = (
        "cat /b/file; touch /x /b/y 2>/dev/null || touch /run/z && id -u; grep -E 'CapBnd|Seccomp:' /proc/self/status"
    )
    shown = podman.run(*confined, "busybox", "sh", "-c", script)[1].split()
    assert shown == ["bound", "1000", "CapBnd:", "0000000000000000", "Seccomp:", "2"]
    assert podman.run("--sysctl", "kernel.msgmax=1234", "busybox", "cat", "/proc/sys/kernel/msgmax") == (0, "1234")
    assert podman.run("--hostname", "named", "busybox", "hostname") == (0, "named")
    assert podman.run("--pid", "host", "busybox", "readlink", "/proc/self/ns/pid") == (
        0,
        os.readlink("/proc/self/ns/pid"),
    )


def test_a_user_namespace(podman: Podman) -> None:
    mapped = podman.run("--uidmap", "0:100000:1000", "busybox", "cat", "/proc/self/uid_map")
    assert (mapped[0], mapped[1].split()) == (0, ["0", "100000", "1000"])
