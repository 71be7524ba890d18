"""A cluster made as a user makes one: a manager, and machines that joined it with a token; one segment joins all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.lab.engine import DAVIT, ROOT, Engine, eventually
from tests.lab.netns import NetworkNamespace, run

SUBNET = "10.77.1"
MANAGER = f"{SUBNET}.1"


class Worker:
    """A machine beside the manager, with a network namespace, a data root and a run directory of its own."""

    def __init__(self, base: Path, name: str, address: str, environment: dict[str, str]) -> None:
        self.name = name
        self.address = address
        self.data = base / name / "data"
        self.run_dir = base / name / "run"
        self.netns = NetworkNamespace()
        self._environment = environment

    def davit(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return run(*self.netns.enter, str(DAVIT), *arguments, check=check, env=self._environment, cwd=ROOT)

    @property
    def _where(self) -> tuple[str, ...]:
        return "--data-root", str(self.data), "--run-dir", str(self.run_dir)

    def join(self, token: str, *more: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.davit("cluster", "join", *self._where, "--node", self.name, "--token", token, *more, MANAGER,
                          check=check)  # fmt: skip

    def up(self) -> None:
        self.davit("up", "--detach", *self._where)

    def down(self, *more: str, check: bool = True) -> None:
        self.davit("down", "--run-dir", str(self.run_dir), *more, check=check)

    def status(self) -> dict[str, Any]:
        answer = self.davit("status", "--json", "--run-dir", str(self.run_dir), check=False).stdout
        return json.loads(answer)  # type: ignore[no-any-return]

    def kill(self, name: str = "agent", number: int = signal.SIGKILL) -> None:
        os.kill(int(self.status()["processes"][name]["pid"]), number)

    def cut(self) -> None:
        """Nothing of the segment reaches it, nor leaves it."""
        run("ip", "-n", self.netns.name, "link", "set", "wire", "down")

    def heal(self) -> None:
        run("ip", "-n", self.netns.name, "link", "set", "wire", "up")


class JoinedCluster:
    """The manager is node ``first``; `workers` have joined it."""

    def __init__(self, *names: str, arguments: tuple[str, ...] = ()) -> None:
        self.engine = Engine("--node", "first", *arguments)
        environment = self.engine.environment
        self.workers = {
            name: Worker(self.engine.base, name, f"{SUBNET}.{number}", environment)
            for number, name in enumerate(names, 2)
        }

    @property
    def environment(self) -> dict[str, str]:
        return self.engine.environment

    def __enter__(self) -> JoinedCluster:
        self.engine.netns.__enter__()
        entered = 0
        try:
            for worker in self.workers.values():
                worker.netns.__enter__()
                entered += 1
            self._connect()
            self.engine.up()
            self.engine.davit("cluster", "init", "--advertise", MANAGER)
            token = self.token()
            for worker in self.workers.values():
                worker.join(token)
            eventually(lambda: set(self.states().values()) == {"ready"}, 10, "all nodes ready")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _connect(self) -> None:
        """A bridge in the manager's namespace is the segment."""
        own = self.engine.netns.name
        run("ip", "-n", own, "link", "add", "segment", "type", "bridge")
        run("ip", "-n", own, "address", "add", f"{MANAGER}/24", "dev", "segment")
        run("ip", "-n", own, "link", "set", "segment", "up")
        for number, worker in enumerate(self.workers.values()):
            there = worker.netns.name
            run("ip", "-n", own, "link", "add", f"wire{number}", "type", "veth", "peer", "name", "wire", "netns", there)
            run("ip", "-n", own, "link", "set", f"wire{number}", "master", "segment", "up")
            run("ip", "-n", there, "address", "add", f"{worker.address}/24", "dev", "wire")
            run("ip", "-n", there, "link", "set", "wire", "up")

    def token(self, *more: str) -> str:
        return self.engine.davit("cluster", "token", "-q", *more).stdout.strip()

    def nodes(self) -> list[dict[str, Any]]:
        return json.loads(self.engine.davit("node", "ls", "--json").stdout)  # type: ignore[no-any-return]

    def states(self) -> dict[str, str]:
        return {node["Hostname"]: node["Status"] for node in self.nodes()}

    def docker(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.engine.docker(*arguments, check=check)

    def remove_containers(self) -> None:
        ids = self.docker("ps", "-aq").stdout.split()
        if ids:
            self.docker("rm", "-f", *ids)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            for worker in self.workers.values():
                if Path(f"/run/netns/{worker.netns.name}").exists() and worker.run_dir.exists():
                    worker.heal()
            if self.engine.run_dir.exists():
                self.engine.docker("ps", check=False)
                ids = self.engine.docker("ps", "-aq", check=False).stdout.split()
                if ids:
                    self.engine.docker("rm", "-f", *ids, check=False)
            for worker in self.workers.values():
                if worker.run_dir.exists():
                    worker.down(check=False)
        finally:
            self.engine.close()
            for worker in self.workers.values():
                if Path(f"/run/netns/{worker.netns.name}").exists():
                    worker.netns.__exit__(None, None, None)
