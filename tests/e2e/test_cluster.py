"""A cluster by `davit cluster` and `davit node`: joining, leaving, states, and what a node may not."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Iterator

import pytest

from tests.e2e.conftest import require_root
from tests.lab.engine import eventually
from tests.lab.joined import MANAGER, JoinedCluster

# A data root that is in no cluster yet.
ELSEWHERE = (
    "--data-root",
    "/var/tmp/dvt-elsewhere/data",
    "--run-dir",
    "/var/tmp/dvt-elsewhere/run",
    "--node",
    "fourth",
)

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[JoinedCluster]:
    require_root()
    with JoinedCluster("second", "third") as joined:
        joined.engine.import_busybox()
        yield joined


@pytest.fixture(autouse=True)
def no_containers(cluster: JoinedCluster) -> Iterator[None]:
    yield
    cluster.remove_containers()


def test_both_command_lines_show_the_same_nodes(cluster: JoinedCluster) -> None:
    shown = cluster.docker("node", "ls", "--format", "{{.Hostname}} {{.Status}} {{.Availability}} {{.ManagerStatus}}")
    assert sorted(line.strip() for line in shown.stdout.splitlines()) == [
        "first Ready Active Leader",
        "second Ready Active",
        "third Ready Active",
    ]
    assert {node["Hostname"]: node["Role"] for node in cluster.nodes()} == {
        "first": "manager (leader)",
        "second": "worker",
        "third": "worker",
    }
    info = json.loads(cluster.docker("info", "--format", "{{json .Swarm}}").stdout)
    assert (info["LocalNodeState"], info["Nodes"], info["Managers"]) == ("active", 3, 1)
    assert info["RemoteManagers"] == [{"NodeID": info["NodeID"], "Addr": f"{MANAGER}:2377"}]


def test_a_container_on_a_node_that_joined_lives_as_everywhere(cluster: JoinedCluster) -> None:
    docker = cluster.docker
    docker("run", "-d", "--name", "far", "--label", "davit.node=second", "busybox", "sh", "-c", "echo hello; sleep 999")
    eventually(lambda: docker("logs", "far").stdout == "hello\n", what="its output")
    docker("exec", "far", "sh", "-c", "echo there > /file")
    assert docker("exec", "far", "cat", "/file").stdout == "there\n"
    assert docker("diff", "far").stdout == "A /file\n"
    docker("commit", "far", "far:1")
    assert docker("run", "--rm", "--label", "davit.node=third", "far:1", "cat", "/file").stdout == "there\n"
    docker("kill", "far")
    assert docker("inspect", "-f", "{{.State.ExitCode}}", "far").stdout == "137\n"
    docker("rm", "far")
    docker("rmi", "-f", "far:1")


def test_a_token_of_another_cluster_is_refused_before_its_secret_is_told(cluster: JoinedCluster) -> None:
    worker = cluster.workers["second"]
    token = cluster.token()
    wrong = token[:12] + ("a" if token[12] != "a" else "b") + token[13:]
    other = worker.join(wrong, *ELSEWHERE, check=False)
    assert other.returncode == 1
    assert "remote CA does not match fingerprint" in other.stderr
    none = worker.join("abc", *ELSEWHERE, check=False)
    assert none.returncode == 78
    assert "invalid join token" in none.stderr


def test_a_rotated_token_lets_nobody_in(cluster: JoinedCluster) -> None:
    worker = cluster.workers["second"]
    old = cluster.token()
    new = cluster.token("--rotate")
    assert new != old
    refused = worker.join(old, *ELSEWHERE, check=False)
    assert refused.returncode == 1
    assert "A valid join token is necessary to join this cluster" in refused.stderr
    taken = worker.join(new, *ELSEWHERE, "--node", "third", check=False)
    assert "a node of the name third is in the cluster already" in taken.stderr


def test_the_bus_between_machines_takes_certificates_of_the_cluster_only(cluster: JoinedCluster) -> None:
    probe = (
        "import ssl,socket,sys\n"
        f"s=socket.create_connection(('{MANAGER}',2378));assert s.recv(9999).startswith(b'INFO ')\n"
        "c=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT);c.check_hostname=False;c.verify_mode=ssl.CERT_NONE\n"
        "t=c.wrap_socket(s)\n"
        "t.sendall(b'CONNECT {}\\r\\nPING\\r\\n')\n"
        "print(t.recv(100))\n"
    )
    worker = cluster.workers["second"]
    answer = cluster.engine.inside("python3", "-c", probe, check=False)
    assert answer.returncode != 0
    assert any(word in answer.stderr for word in ("CERTIFICATE_REQUIRED", "alert", "reset"))
    context = ssl.create_default_context(cafile=str(worker.data / "cluster" / "ca.pem"))
    assert context.cert_store_stats()["x509_ca"] == 1
    assert (worker.data / "cluster" / "node.key").stat().st_mode & 0o777 == 0o600
    assert not (worker.data / "cluster" / "ca.key").exists()


def test_a_dead_node_is_down_within_two_seconds_and_back_at_once(cluster: JoinedCluster) -> None:
    worker = cluster.workers["third"]
    cluster.docker("run", "-d", "--name", "goes-on", "--label", "davit.node=third", "busybox", "sleep", "999")
    worker.cut()
    try:
        began = time.monotonic()
        eventually(lambda: cluster.states()["third"] == "down", 10, "the node down")
        took = time.monotonic() - began
        assert cluster.docker("ps", "--format", "{{.Names}}").stdout == "goes-on\n"
    finally:
        worker.heal()
    eventually(lambda: cluster.states()["third"] == "ready", 15, "the node back")
    assert cluster.docker("exec", "goes-on", "echo", "here").stdout == "here\n"
    assert cluster.docker("inspect", "-f", "{{.RestartCount}}", "goes-on").stdout == "0\n"
    assert took < 6, "far beyond the two seconds that an idle machine needs"


def test_an_agent_that_is_killed_is_not_a_node_that_is_lost(cluster: JoinedCluster) -> None:
    began = cluster.docker("info", "--format", "{{.SystemTime}}").stdout.strip()
    cluster.workers["second"].kill()
    eventually(lambda: cluster.workers["second"].status()["processes"]["agent"]["state"] == "ready", 15, "a new agent")
    time.sleep(1)
    told = cluster.docker("events", "--since", began, "--until", "0s", "--filter", "type=node").stdout
    assert "state.new=down" not in told


@pytest.mark.parametrize("victim", ["gate", "nats", "control", "api"])
def test_whatever_of_the_manager_is_killed_nodes_go_on(cluster: JoinedCluster, victim: str) -> None:
    cluster.docker("run", "-d", "--name", "goes-on", "--label", "davit.node=third", "busybox", "sleep", "999")
    cluster.engine.kill(victim)
    eventually(lambda: cluster.docker("exec", "goes-on", "echo", "here", check=False).stdout == "here\n", 20, "an exec")
    eventually(lambda: cluster.states()["third"] == "ready", 20, "the node, ready")
    assert cluster.docker("inspect", "-f", "{{.State.Running}} {{.RestartCount}}", "goes-on").stdout == "true 0\n"


def test_a_stopped_node_is_down_and_its_containers_still_show(cluster: JoinedCluster) -> None:
    worker = cluster.workers["second"]
    cluster.docker("run", "-d", "--name", "stays", "--label", "davit.node=second", "busybox", "sleep", "999")
    worker.down()
    eventually(lambda: cluster.states()["second"] == "down", 10, "the node down")
    assert cluster.docker("ps", "--format", "{{.Names}}").stdout == "stays\n"
    refused = cluster.docker("run", "--label", "davit.node=second", "busybox", "true", check=False)
    assert refused.returncode == 125
    assert "second" in refused.stderr
    worker.up()
    eventually(lambda: cluster.states()["second"] == "ready", 15, "the node back")
    assert cluster.docker("exec", "stays", "echo", "still").stdout == "still\n"


def test_a_node_stops_with_its_containers_when_asked_to(cluster: JoinedCluster) -> None:
    worker = cluster.workers["second"]
    script = "trap 'exit 7' TERM; while :; do sleep 0.1; done"
    cluster.docker("run", "-d", "--name", "obeys", "--label", "davit.node=second", "busybox", "sh", "-c", script)
    worker.down("--containers")
    worker.up()
    eventually(lambda: cluster.docker("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "obeys").stdout
               == "exited 7\n", 15, "its exit, told")  # fmt: skip


def test_nodes_are_updated_against_the_version_that_was_seen(cluster: JoinedCluster) -> None:
    cluster.docker("node", "update", "--label-add", "zone=a", "third")
    assert cluster.docker("node", "inspect", "-f", "{{.Spec.Labels.zone}}", "third").stdout == "a\n"
    listed = cluster.docker("node", "ls", "-q", "--filter", "node.label=zone=a").stdout.split()
    assert listed == [next(node["ID"] for node in cluster.nodes() if node["Hostname"] == "third")]
    node = json.loads(cluster.docker("node", "inspect", "third").stdout)[0]
    cluster.docker("node", "update", "--label-rm", "zone", "third")
    stale = cluster.engine.inside(
        "curl", "-s", "--unix-socket", str(cluster.engine.socket), "-X", "POST", "-H", "Content-Type: application/json",
        "-d", json.dumps(node["Spec"]), f"http://d/nodes/{node['ID']}/update?version={node['Version']['Index']}",
    )  # fmt: skip
    assert "update out of sequence" in stale.stdout


def test_what_a_swarm_has_beyond_nodes_is_refused_by_name(cluster: JoinedCluster) -> None:
    refused = cluster.docker("service", "create", "busybox", check=False)
    assert refused.returncode == 1
    assert "services of a swarm are not supported" in refused.stderr


def test_a_node_that_is_removed_is_cut_off(cluster: JoinedCluster) -> None:
    worker = cluster.workers["third"]
    living = cluster.docker("node", "rm", "third", check=False)
    assert "is not down and can't be removed" in living.stderr
    cluster.docker("node", "rm", "--force", "third")
    assert "third" not in cluster.states()
    log = worker.data / "engine.log"
    eventually(lambda: "bus connection lost" in log.read_text(), 10, "the end of its connection")
    worker.davit("cluster", "leave", "--run-dir", str(worker.run_dir))
    worker.join(cluster.token())
    eventually(lambda: cluster.states().get("third") == "ready", 15, "the node, joined again")
