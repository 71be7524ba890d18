"""Other OCI runtimes of this node: which there are, and the end of what they leave when their shim is gone."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from shared.config import OWN_RUNTIMES, RuntimeEntry
from shared.errors import InvalidArgument

log = logging.getLogger(__name__)

DELETE_S = 30.0


class ForeignRuntime(BaseModel):
    """An executable with runc's command line, as a container's record keeps it: its configuration may change.

    Attributes:
        args: Before the command.
        root: Where it keeps its state of our containers.
    """

    name: str
    path: str
    args: list[str] = []
    root: str

    def order(self, directory: Path) -> dict[str, Any]:
        """What a shim has to know (`runtime.foreign`)."""
        return {"path": self.path, "args": self.args, "root": self.root, "directory": str(directory)}

    def knows(self, container_id: str) -> bool:
        """Whether it has a container, running or not."""
        return os.path.isdir(os.path.join(self.root, container_id))

    async def delete(self, container_id: str) -> None:
        """Kill and forget a container that no shim takes care of any more."""
        if not self.knows(container_id):
            return
        words = [self.path, *self.args, "--root", self.root, "delete", "--force", container_id]
        try:
            process = await asyncio.create_subprocess_exec(
                *words,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
            )
        except OSError as error:
            log.warning("runtime %s could not delete container %s: %s", self.name, container_id[:12], error)
            return
        try:
            _, said = await asyncio.wait_for(process.communicate(), DELETE_S)
        except TimeoutError:
            process.kill()
            await process.wait()
            said = b"it did not end in time"
        if process.returncode:
            text = said.decode(errors="replace").strip()
            log.warning("runtime %s could not delete container %s: %s", self.name, container_id[:12], text)


class Runtimes:
    """The runtimes that are configured here."""

    def __init__(self, run_dir: Path, configured: Mapping[str, RuntimeEntry]) -> None:
        self._root = run_dir / "runtimes"
        self.configure(configured)

    def configure(self, configured: Mapping[str, RuntimeEntry]) -> None:
        """Take over a configuration; running containers keep what they were started with."""
        self._configured = dict(configured)

    def _executable(self, name: str) -> str | None:
        return shutil.which(self._configured[name].path)

    def find(self, name: str) -> ForeignRuntime | None:
        """The runtime of a name; None for davit's own.

        Raises:
            InvalidArgument: There is none, or its executable is gone.
        """
        entry = self._configured.get(name)
        if entry is None:
            if not name or name in OWN_RUNTIMES:
                return None
            raise InvalidArgument(f"unknown or invalid runtime name: {name}", field="HostConfig.Runtime")
        path = self._executable(name)
        if path is None:
            raise InvalidArgument(f"runtime {name}: there is no executable {entry.path}", field="HostConfig.Runtime")
        return ForeignRuntime(name=name, path=path, args=list(entry.runtime_args), root=str(self._root / name))

    def usable(self) -> dict[str, RuntimeEntry]:
        """Those whose executable is there, by name."""
        return {name: entry for name, entry in self._configured.items() if self._executable(name) is not None}

    def missing(self) -> list[str]:
        """Which cannot be used, and why."""
        return [
            f"{name}: there is no executable {entry.path}"
            for name, entry in self._configured.items()
            if self._executable(name) is None
        ]

    async def sweep(self, running: set[str]) -> None:
        """Delete what runtimes have of containers that do not run: what shims and agents that were killed left."""
        for name in self._configured:
            directory = self._root / name
            if not directory.is_dir() or self._executable(name) is None:
                continue
            runtime = self.find(name)
            assert runtime is not None
            left = [entry.name for entry in directory.iterdir() if entry.is_dir() and entry.name not in running]
            await asyncio.gather(*(runtime.delete(container_id) for container_id in left))
