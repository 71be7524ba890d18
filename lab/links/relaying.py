"""Starts the lab's relay, tells it what to do, and ends it when there is nothing to do."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from lab.links.fabric import OWN
from lab.nodes.cgroups import Cgroup
from lab.nodes.namespaces import Namespaces
from shared.errors import Unavailable

_WITHIN_S = 5.0
_PROGRAM = Path(__file__).with_name("relay.py")


class Relay:
    """The relay of one lab.

    Args:
        keep: The directory of its file and socket.
        cgroup: Where its processes are.
    """

    def __init__(self, keep: Path, cgroup: Cgroup, namespaces: Namespaces) -> None:
        self._file, self._socket, self._log = keep / "relay.json", keep / "relay.sock", keep / "relay.log"
        self._cgroup = cgroup
        self._namespaces = namespaces

    @property
    def running(self) -> bool:
        return bool(self._cgroup.pids())

    @property
    def needed(self) -> bool:
        """Whether there are flows that it has to take care of."""
        return self._file.exists()

    def tell(self, flows: list[dict[str, object]]) -> None:
        """Have it take care of these flows, and return once it does. Raises Unavailable."""
        if not flows:
            self._file.unlink(missing_ok=True)
            self._cgroup.kill()
            self._cgroup.remove()
            return
        text = json.dumps(flows)
        if self.running and self._file.exists() and self._file.read_text() == text:
            return
        temporary = self._file.with_suffix(".new")
        temporary.write_text(text)
        temporary.rename(self._file)
        if not self.running:
            self._start()
        self._reload()

    def _start(self) -> None:
        self._cgroup.create()
        self._socket.unlink(missing_ok=True)

        def move() -> None:
            self._cgroup.join()
            self._namespaces.enter(OWN, ("net",))

        command = [sys.executable, "-I", "-S", str(_PROGRAM), str(self._file), str(self._socket)]
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=move,  # noqa: PLW1509  # one thread
                cwd="/",
                env=dict(os.environ),
            )
        process.returncode = 0  # it outlives this process

    def _reload(self) -> None:
        give_up_at = time.monotonic() + _WITHIN_S
        while True:
            try:
                with socket.socket(socket.AF_UNIX) as client:
                    client.settimeout(_WITHIN_S)
                    client.connect(str(self._socket))
                    said = client.recv(1000).decode()
            except (FileNotFoundError, ConnectionRefusedError) as error:
                if time.monotonic() > give_up_at:
                    raise Unavailable(f"the lab's relay does not answer: see {self._log}") from error
                time.sleep(0.01)
                continue
            if said != "ok":
                raise Unavailable(f"the lab's relay cannot do it: {said}")
            return
