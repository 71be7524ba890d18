"""The gate: a second NATS server of a manager, where the other machines of its cluster come in.

::

    services ── loopback, passwords ──► nats-server ◄── leaf node, loopback ── gate ◄── mutual TLS ── agents elsewhere

The engine's own bus stays on the loopback interface, without the cost of TLS between processes of one machine; what
crosses machines passes the gate, which takes only certificates of the cluster's CA, and from each only what its node
may (`supervisor.nats.node_permissions`). Who is let in is written by control to ``cluster/nodes.json``; a node that is
not there any more is cut off when the gate reads its configuration again.

Source: NATS documentation, "Leaf Nodes", "TLS Authentication" (verify_and_map).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from shared.bus.client import node_token
from shared.cluster.membership import ClusterDirectory, Membership
from shared.cluster.users import bus_user
from supervisor.nats import GATE_USER, gate_password, node_permissions
from supervisor.state import read_json

_CONFIGURATION = """\
# Written by davit; changes are lost.
server_name: {name}
listen: {listen}
tls {{
  cert_file: {certificate}
  key_file: {key}
  ca_file: {ca}
  verify_and_map: true
  timeout: 5
}}
authorization {{
  timeout: 5
  users: {users}
}}
leafnodes {{
  reconnect_delay: "200ms"
  remotes: [ {{ url: {remote} }} ]
}}
max_payload: 8MB
write_deadline: "10s"
ping_interval: "2s"
ping_max: 2
log_file: {log}
logfile_size_limit: 4MB
logfile_max_num: 3
"""


def write_configuration(data_root: Path, run_dir: Path, membership: Membership) -> Path:
    """The gate's configuration for who is let in now."""
    directory = ClusterDirectory(data_root)
    leaf_port = int((read_json(run_dir / "nats.json") or {}).get("leaf_port", 0))
    host = f"[{membership.listen}]" if ":" in membership.listen else membership.listen
    users: list[dict[str, Any]] = [
        {"user": one.subject, "permissions": node_permissions(one.node, bus_user(one.node))}
        for _, one in sorted(directory.admitted().items())
    ]
    text = _CONFIGURATION.format(
        name=json.dumps(f"gate-{node_token(membership.node)}"),
        listen=json.dumps(f"{host}:{membership.bus_port}"),
        certificate=json.dumps(str(directory.certificate)),
        key=json.dumps(str(directory.key)),
        ca=json.dumps(str(directory.ca)),
        users=json.dumps(users),
        remote=json.dumps(f"nats-leaf://{GATE_USER}:{gate_password(data_root)}@127.0.0.1:{leaf_port}"),
        log=json.dumps(str(data_root / "nats" / "gate.log")),
    )
    path = directory.path / "gate.conf"
    directory.write(path, text.encode())
    return path
