"""Processes that do not want to end."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.runtime.conftest import Bundle, Runtime, eventually
from tests.integration.runtime.hardening import build, ours

pytestmark = pytest.mark.root

MARK = "DAVIT_HARDENING_MARK"


@pytest.fixture
def oci(tmp_path: Path) -> Iterator[Runtime]:
    runtime = ours(tmp_path)
    yield runtime
    runtime.clean()


@pytest.fixture
def bundle(oci: Runtime) -> Bundle:
    made = oci.bundle()
    made.process["env"].append(f"{MARK}={made.directory}")
    return made


def living(bundle: Bundle) -> list[int]:
    """Processes of the bundle's container, wherever they are: found by their environment."""
    wanted = f"{MARK}={bundle.directory}".encode()
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                environment = Path(f"/proc/{name}/environ").read_bytes()
            except OSError:
                continue
            if wanted in environment.split(b"\0"):
                found.append(int(name))
    return found


# Leaves its session and its parents behind, several times over.
DODGE = "( setsid sh -c '( setsid sleep 300 & ) & setsid sleep 300 & sleep 300' & ) & sleep 300"
BOMB = """
#include <unistd.h>
int main(void) {
    for (;;)
        switch (fork()) {
        case 0: setsid(); break;
        case -1: usleep(20000);
        }
}
"""


@pytest.mark.parametrize("shared", [False, True], ids=["own-pids", "shared-pids"])
def test_a_tree_that_scatters_is_killed_as_a_whole(oci: Runtime, bundle: Bundle, shared: bool) -> None:
    if shared:
        bundle.without_namespace("pid")
    bundle.shell(DODGE)
    container = oci.create(bundle)
    oci.call("start", container)
    eventually(lambda: len(living(bundle)) >= 4)
    assert oci.call("delete", "--force", container).code == 0
    eventually(lambda: not living(bundle))
    assert oci.call("state", container).code != 0


@pytest.mark.parametrize("shared", [False, True], ids=["own-pids", "shared-pids"])
def test_a_fork_bomb_stays_within_its_limit_and_is_killed(oci: Runtime, bundle: Bundle, shared: bool) -> None:
    if shared:
        bundle.without_namespace("pid")
    bundle.linux["resources"]["pids"] = {"limit": 30}
    build(BOMB, bundle.rootfs / "bin" / "bomb")
    bundle.process["args"] = ["bomb"]
    container = oci.create(bundle)
    oci.call("start", container)
    eventually(lambda: len(living(bundle)) >= 20)
    assert len(living(bundle)) <= 30
    assert oci.call("delete", "--force", container).code == 0
    eventually(lambda: not living(bundle))


def test_kill_all_reaches_every_process(oci: Runtime, bundle: Bundle) -> None:
    bundle.without_namespace("pid")
    bundle.shell(DODGE)
    container = oci.create(bundle)
    oci.call("start", container)
    eventually(lambda: len(living(bundle)) >= 4)
    assert oci.call("kill", "--all", container, "KILL").code == 0
    eventually(lambda: not living(bundle))


def test_a_paused_container_is_killed_too(oci: Runtime, bundle: Bundle) -> None:
    container = oci.running(bundle)
    assert oci.call("pause", container).code == 0
    assert oci.call("delete", "--force", container).code == 0
    eventually(lambda: not living(bundle))


def test_processes_of_exec_end_with_the_container(oci: Runtime, bundle: Bundle) -> None:
    container = oci.running(bundle)
    assert oci.call("exec", "--detach", container, "sh", "-c", DODGE).code == 0
    eventually(lambda: len(living(bundle)) >= 4)
    oci.stop(container)
    eventually(lambda: not living(bundle))
    assert oci.call("delete", container).code == 0
