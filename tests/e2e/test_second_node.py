"""A second node, with a disk of its own: it fetches the layers of images that are on the first."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import require_root
from tests.lab.cluster import Cluster
from tests.lab.engine import eventually

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    require_root()
    with Cluster(tls=True) as both:
        both.engine.import_busybox()
        yield both


@pytest.fixture(autouse=True)
def no_containers(cluster: Cluster) -> Iterator[None]:
    """Each test begins and ends without containers."""
    yield
    ids = cluster.engine.docker("ps", "-aq").stdout.split()
    if ids:
        cluster.engine.docker("rm", "-f", *ids)


def add_layer(cluster: Cluster, name: str, command: str) -> None:
    """An image on top of busybox."""
    cluster.engine.docker("run", "--name", "maker", "busybox", "sh", "-c", command)
    cluster.engine.docker("commit", "maker", name)
    cluster.engine.docker("rm", "maker")


def start_there(cluster: Cluster, image: str) -> subprocess.Popen[bytes]:
    command = ("run", "--rm", "--label", "davit.node=second", image, "true")
    return cluster.engine.docker_popen(*command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_it_runs_containers_of_images_that_are_elsewhere(cluster: Cluster) -> None:
    add_layer(
        cluster, "made:1", "echo 1 >/one; ln -s one /link; mkdir -m 700 /private; head -c 3000000 /dev/urandom >/blob"
    )
    wanted = cluster.engine.docker("run", "--rm", "made:1", "sha256sum", "/blob", "/one").stdout
    assert cluster.run_there("--rm", "made:1", "sha256sum", "/blob", "/one").stdout == wanted
    assert cluster.run_there("--rm", "made:1", "stat", "-c", "%a %N", "/private", "/link").stdout == (
        "700 /private\n777 '/link' -> 'one'\n"
    )
    below = cluster.engine.docker("image", "inspect", "-f", "{{index .RootFS.Layers 0}}", "busybox").stdout.strip()
    assert below.removeprefix("sha256:") in cluster.layers()
    assert len(cluster.layers()) == 2


def test_containers_there_live_as_everywhere(cluster: Cluster) -> None:
    docker = cluster.engine.docker
    cluster.run_there("-d", "--name", "far", "busybox", "sh", "-c", "echo hello; sleep 1000")
    eventually(lambda: docker("logs", "far").stdout == "hello\n", what="its output")
    assert docker("exec", "far", "hostname").stdout.strip() == docker("ps", "-q").stdout.strip()
    docker("exec", "far", "sh", "-c", "echo changed > /changed")
    docker("commit", "far", "changed:1")
    assert docker("run", "--rm", "changed:1", "cat", "/changed").stdout == "changed\n"
    docker("rm", "-f", "far")
    docker("rmi", "changed:1")


def test_layers_go_with_their_image_once_nothing_there_needs_them(cluster: Cluster) -> None:
    docker = cluster.engine.docker
    before = cluster.layers()
    add_layer(cluster, "gone:1", "date > /now")
    cluster.run_there("--name", "holder", "gone:1", "true")
    (new,) = cluster.layers() - before
    docker("rmi", "-f", "gone:1")
    docker("start", "-a", "holder")
    assert cluster.files(new).is_dir()
    docker("rm", "holder")
    add_layer(cluster, "other:1", "date > /other")
    cluster.run_there("--rm", "other:1", "true")
    (other,) = cluster.layers() - before - {new}
    docker("rmi", "other:1")
    eventually(lambda: other not in cluster.layers(), 10, "the removal of the layer")


def test_starts_at_once_share_one_fetch(cluster: Cluster) -> None:
    before = cluster.layers()
    add_layer(cluster, "many:1", "head -c 30000000 /dev/urandom > /blob")
    started = time.monotonic()
    clients = [
        cluster.engine.docker_popen(
            "run",
            "--rm",
            "--label",
            "davit.node=second",
            "many:1",
            "true",
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(4)
    ]
    assert [client.wait(60) for client in clients] == [0, 0, 0, 0], time.monotonic() - started
    assert len(cluster.layers() - before) == 1


def test_an_agent_killed_while_it_fetches_leaves_nothing_half_there(cluster: Cluster) -> None:
    before = cluster.layers()
    add_layer(cluster, "large:1", "head -c 60000000 /dev/urandom > /blob")
    client = cluster.engine.docker_popen(
        "run",
        "--rm",
        "--label",
        "davit.node=second",
        "large:1",
        "true",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    eventually(lambda: any(name.startswith(".staged") for name in cluster.layers()), 15, "the begin of a fetch")
    cluster.kill_agent()
    client.wait(60)
    eventually(lambda: not any(name.startswith(".") for name in cluster.layers()), 15, "an end of what was half there")
    assert cluster.run_there("--rm", "large:1", "wc", "-c", "/blob").stdout.split()[0] == "60000000"
    assert len(cluster.layers() - before) == 1


def test_an_unknown_node_is_refused(cluster: Cluster) -> None:
    refused = cluster.engine.docker("create", "--label", "davit.node=third", "busybox", check=False)
    assert refused.returncode == 1
    assert "label davit.node: there is no node 'third'" in refused.stderr


def test_nobody_else_reads_layers(cluster: Cluster) -> None:
    digest = "sha256:" + "0" * 64
    for token in ("", "Bearer 9999999999.00"):
        answer = cluster.engine.inside(
            "curl", "-sk", "-o", "/dev/null", "-w", "%{http_code}", "-H", f"Authorization: {token}",
            f"https://127.0.0.1:5000/v2/davit/layers/blobs/{digest}",
        )  # fmt: skip
        assert answer.stdout == "401"


def test_that_node_s_status_is_whole_at_once_and_down_ends_its_containers(cluster: Cluster) -> None:
    cluster.run_there("-d", "--name", "ends", "busybox", "sleep", "1000")
    docker = cluster.engine.docker
    pid = int(docker("inspect", "-f", "{{.State.Pid}}", "ends").stdout)
    for _ in range(3):
        status = cluster.status()
        assert status["healthy"], status["processes"]
        assert {health["node"] for health in status["others"]} <= {"first"}  # told apart from this node's
    said = cluster.down()
    assert "stopped 1 containers" in said
    assert not Path(f"/proc/{pid}").exists()
    cluster.up()
    status = cluster.status()
    assert status["processes"]["agent"]["healthy"], status["processes"]
    eventually(lambda: docker("inspect", "-f", "{{.State.Status}}", "ends").stdout.strip() == "exited", what="its exit")
