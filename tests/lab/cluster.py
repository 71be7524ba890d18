"""An engine and a second node with nothing but an agent: two network namespaces, two data roots, one bus."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.lab.engine import DAVIT, ROOT, Engine, eventually
from tests.lab.netns import NetworkNamespace, run
from tests.lab.registry import certificate

FIRST, SECOND = "10.77.0.1", "10.77.0.2"
BUS_PORT, REGISTRY_PORT = 4222, 5000


class Cluster:
    """Two nodes: `engine` is all of davit as node ``first``; ``second`` has an agent and its own data root.

    Args:
        tls: Whether the registry that layers come from has a certificate.
    """

    def __init__(self, *, tls: bool = False) -> None:
        self.engine = Engine()
        self._tls = tls
        self._other = NetworkNamespace()
        self._bus: subprocess.Popen[bytes] | None = None
        self.data = self.engine.base / "data2"
        self._run_dir = self.engine.base / "run2"
        self._password = secrets.token_hex(8)

    @property
    def bus_url(self) -> str:
        return f"nats://davit:{self._password}@{FIRST}:{BUS_PORT}"

    def __enter__(self) -> Cluster:
        self.engine.netns.__enter__()
        self._other.__enter__()
        try:
            self._connect()
            self._start_bus()
            self.engine.arguments = ("--node", "first", "--nats", self.bus_url)
            self.engine._environment |= {"DAVIT_REGISTRY_LISTEN": f"0.0.0.0:{REGISTRY_PORT}"} | self._secrets()
            self.engine.up()
            self.up()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _connect(self) -> None:
        one, other = self.engine.netns.name, self._other.name
        run("ip", "-n", one, "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", other)
        for name, address in ((one, FIRST), (other, SECOND)):
            run("ip", "-n", name, "address", "add", f"{address}/24", "dev", "wire")
            run("ip", "-n", name, "link", "set", "wire", "up")

    def _start_bus(self) -> None:
        config = self.engine.base / "nats.conf"
        config.write_text(
            f'listen: "{FIRST}:{BUS_PORT}"\n'
            f'jetstream {{ store_dir: "{self.engine.base}/jetstream", sync_interval: always }}\n'
            f'authorization {{ user: davit, password: "{self._password}" }}\n'
        )
        python = str(DAVIT.with_name("python"))
        self._bus = subprocess.Popen(
            [*self.engine.netns.enter, python, "-m", "supervisor.nats", "--config", str(config)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
        )

    def _secrets(self) -> dict[str, str]:
        """Users, so that only those who are let in can read; and a certificate, if asked for."""
        users = self.engine.base / "users"
        users.write_text("")
        settings = {"DAVIT_REGISTRY_USERS": str(users)}
        if self._tls:
            cert, key = certificate(self.engine.base / "tls")
            settings |= {"DAVIT_REGISTRY_TLS_CERT": str(cert), "DAVIT_REGISTRY_TLS_KEY": str(key)}
        return settings

    def _davit(self, *arguments: str, check: bool = True) -> str:
        done = run(*self._other.enter, str(DAVIT), *arguments, check=check, env=self.engine.environment, cwd=ROOT)
        return str(done.stdout)

    def up(self) -> None:
        """Start the second node, and wait until the first has heard of it."""
        self._davit(
            "up", "--detach", "--data-root", str(self.data), "--run-dir", str(self._run_dir),
            "--services", "agent", "--node", "second", "--nats", self.bus_url,
        )  # fmt: skip
        there = ("create", "--pull", "never", "--label", "davit.node=second", "none")
        eventually(lambda: "No such image" in self.engine.docker(*there, check=False).stderr, 15, "the second node")

    def status(self) -> dict[str, Any]:
        """The second node's, as it is told there."""
        status: dict[str, Any] = json.loads(
            self._davit("status", "--json", "--run-dir", str(self._run_dir), check=False)
        )
        return status

    def down(self) -> str:
        return self._davit("down", "--run-dir", str(self._run_dir), "--containers", check=False)

    def kill_agent(self) -> None:
        """SIGKILL the second node's agent; it is started again."""
        status = run(
            *self._other.enter, str(DAVIT), "status", "--json", "--run-dir", str(self._run_dir), check=False, cwd=ROOT
        )
        os.kill(int(json.loads(status.stdout)["processes"]["agent"]["pid"]), signal.SIGKILL)

    def run_there(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """``docker run`` on the second node."""
        return self.engine.docker("run", "--pull", "never", "--label", "davit.node=second", *arguments, check=check)

    def layers(self) -> set[str]:
        """What the second node has of layers, or has half of."""
        return {path.name for path in (self.data / "layers").iterdir()} if self.data.exists() else set()

    def files(self, layer: str) -> Path:
        return self.data / "layers" / layer / "fs"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if self._run_dir.exists():
                self.down()
            if self.engine.run_dir.exists():
                self.engine.davit("down", "--containers", check=False)
        finally:
            if self._bus is not None:
                self._bus.kill()
                self._bus.wait()
            self.engine.close()
            self._other.__exit__(None, None, None)
