"""The real Docker Engine in a network namespace of its own, to compare answers with."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

from tests.lab.engine import busybox_tar, eventually
from tests.lab.netns import NetworkNamespace, run


class ReferenceEngine:
    """dockerd from the distribution, with a temporary data root."""

    def __init__(self, *arguments: str) -> None:
        self.arguments = arguments
        self.base = Path(tempfile.mkdtemp(prefix="ref-", dir="/var/tmp"))
        self.netns = NetworkNamespace("ref")
        self._process: subprocess.Popen[bytes] | None = None

    @staticmethod
    def available() -> bool:
        return shutil.which("dockerd") is not None and shutil.which("containerd") is not None

    @property
    def url(self) -> str:
        return f"unix://{self.base}/docker.sock"

    @property
    def environment(self) -> dict[str, str]:
        clean = {key: value for key, value in os.environ.items() if not key.startswith("DOCKER_")}
        return clean | {"DOCKER_HOST": self.url, "DOCKER_CONFIG": str(self.base / "docker")}

    def docker(self, *arguments: str, check: bool = True, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        return run("docker", *arguments, check=check, env=self.environment, input=stdin)

    def import_busybox(self) -> None:
        tar = busybox_tar(self.base / "busybox.tar")
        self.docker("import", "-c", 'CMD ["sh"]', str(tar), "busybox:latest")

    def __enter__(self) -> ReferenceEngine:
        self.netns.__enter__()
        with (self.base / "dockerd.log").open("wb") as log:
            self._process = subprocess.Popen(
                [*self.netns.enter, "dockerd", "--data-root", f"{self.base}/data", "--exec-root", f"{self.base}/run",
                 "--pidfile", f"{self.base}/pid", "-H", self.url, "--insecure-registry", "127.0.0.0/8",
                 *self.arguments],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        eventually(lambda: self.docker("version", check=False).returncode == 0, 30, "the reference engine's answer")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        ids = self.docker("ps", "-aq", check=False).stdout.split()
        if ids:
            self.docker("rm", "-f", *ids, check=False)
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(30)
        self.netns.__exit__(None, None, None)
        self._unmount()
        shutil.rmtree(self.base, ignore_errors=True)

    def _unmount(self) -> None:
        """Take away what dockerd leaves mounted: the namespace of ``--network host``, and its data."""
        places = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        for place in sorted((place for place in places if place.startswith(f"{self.base}/")), reverse=True):
            run("umount", "--lazy", place, check=False)
