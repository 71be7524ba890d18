"""`davit dockerd` in a laboratory: started by dockerd's command line, several in one network namespace if need be."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.lab.engine import DAVIT, Engine, busybox_tar, eventually
from tests.lab.netns import NetworkNamespace, run


class Dockerd:
    """One of them. Its containers are removed in the end.

    Args:
        netns: Where it runs; engines may share it.
        arguments: dockerd's flags beside roots and socket.
    """

    def __init__(self, netns: NetworkNamespace, *arguments: str) -> None:
        self.netns = netns
        self.base = Path(tempfile.mkdtemp(prefix="dkd-", dir="/var/tmp"))
        self.arguments = arguments
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> Path:
        return self.base / "docker.sock"

    @property
    def log(self) -> str:
        path = self.base / "log"
        return path.read_text() if path.exists() else ""

    @property
    def environment(self) -> dict[str, str]:
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("DOCKER_", "DAVIT_"))}
        return clean | {"DOCKER_HOST": f"unix://{self.socket}", "DOCKER_CONFIG": str(self.base / "client")}

    def start(self, **environment: str) -> None:
        """Start it, and wait until it answers."""
        self.spawn(**environment)
        eventually(self.answers, 30, f"an answer of dockerd: {self.log[-2000:]}")

    def spawn(self, **environment: str) -> None:
        """Start it, and do not wait."""
        roots = ("--data-root", f"{self.base}/data", "--exec-root", f"{self.base}/run", "-H", f"unix://{self.socket}")
        with (self.base / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self.netns.enter, str(DAVIT), "dockerd", *roots, *self.arguments],
                env=self.environment | environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def answers(self) -> bool:
        """Whether this process's engine does: one that was killed may still, for a moment."""
        assert self.process is not None
        assert self.process.poll() is None, self.log[-2000:]
        pidfile = self.base / "run" / "docker.pid"
        if not pidfile.exists() or pidfile.read_text() != str(self.process.pid):
            return False
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(5)
                client.connect(str(self.socket))
                client.sendall(b"GET /_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                return client.recv(64).startswith(b"HTTP/1.1 200")
        except OSError:
            return False

    def send(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it by a signal; its exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(60)
        self.process = None
        return code

    def docker(self, *arguments: str, check: bool = True) -> str:
        """What a docker client prints."""
        return str(run("docker", *arguments, env=self.environment, check=check).stdout).strip()

    def inspect(self, kind: str, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.docker(kind, "inspect", name))[0]
        return found

    def import_busybox(self) -> None:
        tar = busybox_tar(self.base / "busybox.tar")
        self.docker("import", "-c", 'CMD ["sh"]', str(tar), "busybox:latest")

    def processes(self) -> list[int]:
        """Of the engine and its shims."""
        engine = Engine(base=self.base)
        return engine._leftovers()

    def close(self) -> None:
        try:
            if self.process is not None and self.process.poll() is None:
                if ids := self.docker("ps", "-aq", check=False).split():
                    self.docker("rm", "-f", *ids, check=False)
                self.stop()
        finally:
            Engine(base=self.base)._kill_leftovers()
            shutil.rmtree(self.base, ignore_errors=True)

    def __enter__(self) -> Dockerd:
        try:
            self.start()
            self.import_busybox()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
