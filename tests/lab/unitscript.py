"""Runs in a virtual machine under systemd: installs the units, and restarts each of them beside a running container.

Nothing but the standard library, and what is under test. Prints what it does; ends with an assertion when a unit does
not keep what the documentation says.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

TREE = Path("/opt/davit")
SOCKET = "/run/davit/docker.sock"
UNITS = ("nats", "network", "volume", "audit", "image", "control", "agent", "api")
# The machine's processor is emulated.
PATIENCE_S = 400.0
PAUSE_S = 0.5


class Api(http.client.HTTPConnection):
    """The engine's, over its socket."""

    def __init__(self) -> None:
        super().__init__("localhost", timeout=PATIENCE_S)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE_S)
        self.sock.connect(SOCKET)


def ask(method: str, path: str, body: Any = None, *, raw: bytes | None = None) -> Any:
    connection = Api()
    data = raw if raw is not None else None if body is None else json.dumps(body).encode()
    kind = "application/x-tar" if raw is not None else "application/json"
    connection.request(method, path, data, {"Content-Type": kind} if data is not None else {})
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    if answer.status >= 400:
        raise RuntimeError(f"{method} {path}: {answer.status} {text.decode(errors='replace')}")
    return text


def systemctl(*words: str) -> str:
    return subprocess.run(["systemctl", *words], check=False, capture_output=True, text=True).stdout.strip()


def eventually(what: str, condition: Callable[[], Any]) -> Any:
    until = time.monotonic() + PATIENCE_S
    while True:
        reason: Exception | None = None
        try:
            if value := condition():
                return value
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            reason = error
        if time.monotonic() > until:
            subprocess.run(["journalctl", "--no-pager", "-n", "150", "-u", "davit-*"], check=False)
            raise AssertionError(f"{what}: not within {PATIENCE_S:g} s ({reason})")
        time.sleep(PAUSE_S)


def install() -> None:
    """As docs/operations/systemd.md says, but for what `install.sh` would fetch."""
    etc, units = Path("/etc/davit"), Path("/etc/systemd/system")
    etc.mkdir(mode=0o700)
    shutil.copy(TREE / "deploy/systemd/nats.conf", etc)
    (etc / "bus").write_text("BUS_PASSWORD=secret\n")
    (etc / "environment").write_text("DAVIT_NATS_URL=nats://davit:secret@127.0.0.1:4222\n")
    for file in (TREE / "deploy/systemd").iterdir():
        if file.suffix in (".service", ".target"):
            shutil.copy(file, units)
    subprocess.run(["systemctl", "daemon-reload"], check=True)
    subprocess.run(["systemctl", "enable", "--now", "davit.target"], check=True)


def inspect(name: str) -> Any:
    return json.loads(ask("GET", f"/containers/{name}/json"))["State"]


def run_container() -> int:
    """A container that counts; its pid."""
    ask("POST", "/images/create?fromSrc=-&repo=busybox&tag=latest", raw=Path("/payload/busybox.tar").read_bytes())
    count = "i=0; while :; do echo line $i; i=$((i+1)); sleep 0.2; done"
    body = {"Image": "busybox", "Cmd": ["/bin/busybox", "sh", "-c", count.replace("sleep", "/bin/busybox sleep")]}
    ask("POST", "/containers/create?name=counts", body)
    ask("POST", "/containers/counts/start")
    return int(inspect("counts")["Pid"])


def lines() -> list[int]:
    text = ask("GET", "/containers/counts/logs?stdout=1").decode(errors="replace")
    return [int(part.split("\n")[0]) for part in text.split("line ")[1:]]


def check(pid: int) -> None:
    """The container has gone on without a gap, and the engine still does what it is asked for."""
    state = eventually("an answer", lambda: inspect("counts"))
    assert state["Running"], state
    assert state["Pid"] == pid, (state, pid)
    assert os.path.exists(f"/proc/{pid}")
    before = len(lines())
    eventually("more lines", lambda: len(lines()) > before)
    printed = lines()
    assert printed == list(range(len(printed))), printed[:50]


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201  # what the test outside reads


def is_active(unit: str) -> bool:
    return systemctl("is-active", f"davit-{unit}") == "active"


def main() -> None:
    install()
    eventually("an engine", lambda: ask("GET", "/_ping"))
    for unit in UNITS:
        eventually(f"davit-{unit}", partial(is_active, unit))
    eventually("a node", lambda: json.loads(ask("GET", "/info"))["NCPU"] > 0)
    say("engine is up")
    pid = run_container()
    check(pid)
    for unit in UNITS:
        main_pid = systemctl("show", "-p", "MainPID", "--value", f"davit-{unit}")
        subprocess.run(["systemctl", "restart", f"davit-{unit}"], check=True)
        assert systemctl("show", "-p", "MainPID", "--value", f"davit-{unit}") != main_pid
        check(pid)
        say(f"{unit} was restarted")
    subprocess.run(["systemctl", "stop", "davit.target"], check=True)
    eventually("the end of all", lambda: not any(map(is_active, UNITS)))
    assert os.path.exists(f"/proc/{pid}"), "containers outlive the engine"
    subprocess.run(["systemctl", "start", "davit.target"], check=True)
    eventually("an engine", lambda: ask("GET", "/_ping"))
    check(pid)
    ask("DELETE", "/containers/counts?force=1")
    eventually("the container's end", lambda: not os.path.exists(f"/proc/{pid}"))
    say("all units kept their word")


if __name__ == "__main__":
    main()
