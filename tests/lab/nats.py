"""A private nats-server with JetStream, on loopback, that tests may kill and start again."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from supervisor.nats import find_binary, node_permissions


class NatsServer:
    """One server; `kill` and `start` keep its port and, unless asked otherwise, its store."""

    def __init__(self, agents: Sequence[str] = ()) -> None:
        """agents: nodes whose agents are users ``agent-<node>`` with what agents may; their names are the passwords."""
        self.agents = agents
        self.base = Path(tempfile.mkdtemp(prefix="nats-", dir="/var/tmp"))
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = int(probe.getsockname()[1])
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def __enter__(self) -> NatsServer:
        config = self.base / "nats.conf"
        config.write_text(
            f'listen: "127.0.0.1:{self.port}"\n'
            f'jetstream {{ store_dir: "{self.base}/jetstream", sync_interval: always }}\n'
            f"{self._authorization()}"
        )
        self.start()
        return self

    def _authorization(self) -> str:
        if not self.agents:
            return ""
        users: list[dict[str, Any]] = [{"user": "service", "password": "service"}]
        for node in self.agents:
            user = f"agent-{node}"
            users.append({"user": user, "password": node, "permissions": node_permissions(node, user)})
        return f"authorization {{ users: {json.dumps(users)} }}\n"

    def start(self) -> None:
        """Start, and wait until it takes connections."""
        self._process = subprocess.Popen(
            [str(find_binary()), "-c", str(self.base / "nats.conf")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 15
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1) as probe:
                    if probe.recv(5) == b"INFO ":
                        return
            except OSError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.02)

    def kill(self, *, forget: bool = False) -> None:
        """SIGKILL the server; `forget`: and lose everything it had stored."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None
        if forget:
            shutil.rmtree(self.base / "jetstream", ignore_errors=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()
        shutil.rmtree(self.base, ignore_errors=True)
