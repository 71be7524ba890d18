"""Where containers of a cluster go, and what becomes of them when their node is lost."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.e2e.conftest import require_root
from tests.lab.engine import eventually
from tests.lab.joined import JoinedCluster

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[JoinedCluster]:
    require_root()
    with JoinedCluster("second", "third") as joined:
        joined.engine.import_busybox()
        joined.docker("node", "update", "--label-add", "zone=b", "second")
        joined.docker("node", "update", "--label-add", "zone=c", "third")
        yield joined


@pytest.fixture(autouse=True)
def no_containers(cluster: JoinedCluster) -> Iterator[None]:
    yield
    cluster.remove_containers()


def node_of(cluster: JoinedCluster, name: str) -> str:
    return cluster.docker("inspect", "-f", "{{.Node.Name}}", name).stdout.strip()


def run(cluster: JoinedCluster, name: str, *arguments: str) -> str:
    """Start a container that sleeps; its node."""
    cluster.docker("run", "-d", "--name", name, *arguments, "busybox", "sleep", "999")
    return node_of(cluster, name)


def test_what_says_nothing_is_spread_over_the_nodes(cluster: JoinedCluster) -> None:
    assert {run(cluster, f"c{number}") for number in range(3)} == {"first", "second", "third"}
    listed = json.loads(cluster.engine.inside(
        "curl", "-s", "--unix-socket", str(cluster.engine.socket), "http://d/containers/json").stdout)  # fmt: skip
    assert {one["Names"][0]: one["Node"] for one in listed} == {f"/c{n}": node_of(cluster, f"c{n}") for n in range(3)}
    there = cluster.docker("ps", "--filter", "node=second", "--format", "{{.Names}}").stdout.split()
    assert [node_of(cluster, name) for name in there] == ["second"]


def test_constraints_and_affinities_decide(cluster: JoinedCluster) -> None:
    assert run(cluster, "near", "--label", "davit.constraint=node.labels.zone==c") == "third"
    assert run(cluster, "by", "--label", "davit.affinity=container==near") == "third"
    assert run(cluster, "far", "--label", "davit.affinity=container!=near") in ("first", "second")
    refused = cluster.docker("run", "--label", "davit.constraint=node.labels.zone==z", "busybox", "true", check=False)
    assert refused.returncode == 125
    for node in ("first", "second", "third"):
        assert f"{node}: it does not meet node.labels.zone==z" in refused.stderr
    wrong = cluster.docker("run", "--label", "davit.constraint=zone==c", "busybox", "true", check=False)
    assert "label davit.constraint: 'zone==c' is not a key that nodes have" in wrong.stderr


def test_a_volume_draws_its_containers_to_its_node(cluster: JoinedCluster) -> None:
    assert run(cluster, "maker", "-v", "data:/data", "--label", "davit.node=second") == "second"
    cluster.docker("exec", "maker", "sh", "-c", "echo kept > /data/file")
    cluster.docker("rm", "-f", "maker")
    assert cluster.docker("run", "--rm", "-v", "data:/data", "busybox", "cat", "/data/file").stdout == "kept\n"
    refused = cluster.docker("run", "--rm", "-v", "data:/data", "--label", "davit.node=third", "busybox", "true",
                             check=False)  # fmt: skip
    assert "third: volume data is on second" in refused.stderr
    cluster.docker("volume", "rm", "data")


def test_who_shares_a_namespace_runs_beside_its_owner(cluster: JoinedCluster) -> None:
    run(cluster, "owner", "--label", "davit.node=third")
    assert run(cluster, "guest", "--network", "container:owner") == "third"


def test_a_port_that_is_published_on_one_node_leads_to_another(cluster: JoinedCluster) -> None:
    places = {run(cluster, f"p{number}", "-p", "8080:80") for number in range(3)}
    assert places == {"first", "second", "third"}
    refused = cluster.docker("run", "-p", "8080:80", "busybox", "true", check=False)
    assert refused.stderr.count("port 8080/tcp is taken") == 3


def test_limits_are_kept_free(cluster: JoinedCluster) -> None:
    refused = cluster.docker("run", "--memory", "4000g", "busybox", "true", check=False)
    assert refused.returncode == 125
    assert "bytes are not reserved" in refused.stderr


def test_a_drained_node_gets_nothing_more(cluster: JoinedCluster) -> None:
    cluster.docker("node", "update", "--availability", "drain", "second")
    try:
        assert "second" not in {run(cluster, f"c{number}") for number in range(4)}
        refused = cluster.docker("run", "--label", "davit.node=second", "busybox", "true", check=False)
        assert "second: its availability is drain" in refused.stderr
    finally:
        cluster.docker("node", "update", "--availability", "active", "second")


def test_what_asks_for_it_is_started_again_elsewhere_and_ended_where_it_was(cluster: JoinedCluster) -> None:
    worker = cluster.workers["third"]
    moves = ("--label", "davit.node=third", "--label", "davit.reschedule=on-node-failure")
    refused = cluster.docker("run", *moves[2:3], "davit.reschedule=always", "busybox", "true", check=False)
    assert "label davit.reschedule: 'always' is not on-node-failure or off" in refused.stderr
    run(cluster, "stays", "--label", "davit.node=third")
    beside = ("--label", "davit.constraint=node.hostname!=second,node.hostname!=~first")
    assert run(cluster, "moves", *beside, *moves[2:]) == "third"
    worker.cut()
    try:
        eventually(lambda: node_of(cluster, "moves") == "first"
                   and cluster.docker("inspect", "-f", "{{.State.Running}}", "moves").stdout == "true\n",
                   20, "its new life")  # fmt: skip
        assert node_of(cluster, "stays") == "third"
        assert cluster.docker("exec", "moves", "echo", "here").stdout == "here\n"
    finally:
        worker.heal()
    eventually(lambda: cluster.states()["third"] == "ready", 15, "the node back")
    identifier = cluster.docker("inspect", "-f", "{{.Id}}", "moves").stdout.strip()
    eventually(lambda: not (worker.data / "containers" / identifier).exists(), 20, "the end of the old one")
    assert cluster.docker("exec", "stays", "echo", "still").stdout == "still\n"
    assert cluster.docker("inspect", "-f", "{{.State.Running}} {{.RestartCount}}", "moves").stdout == "true 0\n"
    told = cluster.docker("events", "--since", "5m", "--until", "0s", "--filter", "container=moves",
                          "--format", "{{.Action}}").stdout.splitlines()  # fmt: skip
    assert [one for one in told if not one.startswith(("exec_", "connect", "disconnect"))] == [
        "create",
        "start",
        "die",
        "reschedule",
        "start",
    ]
