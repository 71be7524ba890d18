"""A davit engine in a laboratory: own network namespace, data root and run directory, all gone afterwards."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.lab import leftovers
from tests.lab.netns import NetworkNamespace, run

ROOT = Path(__file__).resolve().parents[2]
DAVIT = Path(sys.executable).with_name("davit")
READY_TIMEOUT_S = 30.0


def eventually(condition: Callable[[], Any], timeout_s: float = 10.0, what: str = "the condition") -> Any:
    """The first true value of `condition`. Raises AssertionError when there is none in time."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come true within {timeout_s:g} s")
        time.sleep(0.05)


class Engine:
    """One engine. `docker` runs the real CLI against it.

    Args:
        arguments: More flags for `davit up`.
        base: Directory to keep everything in; a temporary one when None.
    """

    def __init__(self, *arguments: str, base: Path | None = None, environment: dict[str, str] | None = None) -> None:
        self._own_base = base is None
        self.base = base or Path(tempfile.mkdtemp(prefix="dvt-", dir="/var/tmp"))
        self.data = self.base / "data"
        self.run_dir = self.base / "run"
        self.arguments = arguments
        self.netns = NetworkNamespace()
        self._environment = environment or {}
        self._instances: set[str] = set()

    @property
    def socket(self) -> Path:
        return self.run_dir / "docker.sock"

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    @property
    def environment(self) -> dict[str, str]:
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("DOCKER_", "DAVIT_"))}
        return clean | {"DOCKER_HOST": self.url, "DOCKER_CONFIG": str(self.base / "docker")} | self._environment

    def __enter__(self) -> Engine:
        self.netns.__enter__()
        try:
            self.up()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def davit(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the davit command for this engine, in its network namespace."""
        where = ("--run-dir", str(self.run_dir))
        if arguments[0] == "up":
            arguments = ("up", "--data-root", str(self.data), *where, *arguments[1:])
        else:
            arguments = (*where, *arguments)
        return run(*self.netns.enter, str(DAVIT), *arguments, check=check, env=self.environment, cwd=ROOT)

    def up(self) -> None:
        self.davit("up", "--detach", *self.arguments)
        with suppress(FileNotFoundError):  # a subset of services has none
            self._instances.add((self.data / "instance").read_text().strip())

    def down(self, *, containers: bool = False) -> None:
        self.davit("down", *(["--containers"] if containers else []))

    def status(self) -> dict[str, Any]:
        """`davit status --json`."""
        result: dict[str, Any] = json.loads(self.davit("status", "--json", check=False).stdout)
        return result

    def pids(self) -> dict[str, int]:
        """Pid by engine process that runs just now: supervisor, nats, and each service."""
        status = self.status()
        return {name: int(entry["pid"]) for name, entry in status["processes"].items() if entry["pid"]}

    def kill(self, name: str, number: int = signal.SIGKILL) -> int:
        """Send a signal to an engine process, once it runs; its pid."""
        pid: int = eventually(lambda: self.pids().get(name), 15, f"a running {name}")
        os.kill(pid, number)
        return pid

    def nats_url(self) -> str:
        """Where the engine's bus is, with the credentials to join it."""
        return str(self.status()["bus"]["url"])

    def docker(
        self, *arguments: str, check: bool = True, stdin: str | None = None, timeout_s: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run the docker CLI; text in, text out."""
        return run("docker", *arguments, check=check, env=self.environment, input=stdin, timeout=timeout_s)

    def docker_popen(self, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        """A docker CLI that goes on while the test does something else."""
        return subprocess.Popen(["docker", *arguments], env=self.environment, **options)

    def inside(self, *command: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a program in the engine's network namespace, as a client of its published ports."""
        return run(*self.netns.enter, *command, check=check, **options)

    def import_busybox(self) -> None:
        """Make busybox:latest from the host's static busybox."""
        if self.docker("image", "inspect", "busybox:latest", check=False).returncode == 0:
            return
        tar = busybox_tar(self.base / "busybox.tar")
        self.docker("import", "-c", 'CMD ["sh"]', str(tar), "busybox:latest")

    def close(self) -> None:
        """End the engine and its containers, and remove all it left."""
        try:
            if self.run_dir.exists():
                self.davit("down", "--containers", check=False)
            self._kill_leftovers()
            # An engine that was killed, or whose directories were deleted, cannot do it itself.
            for instance in filter(None, self._instances):
                leftovers.remove_groups(f"davit-{instance}")
        finally:
            self.netns.__exit__(None, None, None)
            if self._own_base:
                shutil.rmtree(self.base, ignore_errors=True)

    def _kill_leftovers(self) -> None:
        """SIGKILL whatever still runs from this engine's directories: a failed test must not spoil the next.

        Until nothing does: guardian and supervisor put each other back.
        """
        while found := self._leftovers():
            for pid in found:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)

    def _leftovers(self) -> list[int]:
        return leftovers.processes_of(self.base)


def busybox_tar(path: Path) -> Path:
    """A root file system with the host's static busybox and its applets, as a tar."""
    import tarfile

    binary = shutil.which("busybox") or "/bin/busybox"
    applets = run(binary, "--list").stdout.split()
    with tarfile.open(path, "w") as tar:
        for name, mode in (("bin", 0o755), ("etc", 0o755), ("root", 0o700), ("tmp", 0o1777), ("var", 0o755),
                           ("proc", 0o755), ("sys", 0o755), ("dev", 0o755), ("home", 0o755)):  # fmt: skip
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            tar.addfile(entry)
        tar.add(os.path.realpath(binary), "bin/busybox")
        for applet in applets:
            if applet != "busybox":
                entry = tarfile.TarInfo(f"bin/{applet}")
                entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(entry)
        for name, text in (
            ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
            ("etc/group", "root:x:0:\nnobody:x:65534:\n"),
        ):
            import io

            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
    return path
