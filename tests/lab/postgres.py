"""A private Postgres cluster on a unix socket and a loopback port inside a network namespace."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

from tests.lab.engine import eventually
from tests.lab.netns import NetworkNamespace, run

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


class Postgres:
    """Runs as user nobody (Postgres refuses root); everything is in one temporary directory."""

    def __init__(self, netns: NetworkNamespace | None = None) -> None:
        # In a network namespace of its own it may have the usual port; on the host, a free one.
        self.port = 5432 if netns is not None else _free_port()
        self._enter = netns.enter if netns is not None else []
        self.base = Path(tempfile.mkdtemp(prefix="pg-", dir="/var/tmp"))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"postgresql://nobody@127.0.0.1:{self.port}/postgres"

    @staticmethod
    def _as_nobody() -> list[str]:
        return ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]

    def __enter__(self) -> Postgres:
        binary = BINARIES[0]
        os.chown(self.base, 65534, 65534)
        data = self.base / "data"
        run(*self._as_nobody(), str(binary / "initdb"), "-A", "trust", "-U", "nobody", "-N", "-D", str(data), cwd="/")
        with (self.base / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [*self._enter, *self._as_nobody(), str(binary / "postgres"), "-D", str(data), "-k", str(self.base),
                 "-c", f"port={self.port}", "-c", "listen_addresses=127.0.0.1", "-c", "shared_buffers=32MB"],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd="/",
            )  # fmt: skip
        eventually(
            lambda: run(*self._enter, str(binary / "pg_isready"), "-h", "127.0.0.1", "-p", str(self.port), check=False)
            .returncode == 0,
            20,
            "Postgres's readiness",
        )  # fmt: skip
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)
        shutil.rmtree(self.base, ignore_errors=True)
