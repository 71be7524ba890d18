"""`davit lab apply`: only the difference."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.labs import TestLab, require_root

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

FILE = """\
name: grows
nodes:
  m1: {role: manager}
  w1:
links:
- between: [m1, w1]
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[TestLab]:
    require_root()
    with TestLab(FILE) as two:
        two.import_busybox()
        two.docker(
            "run", "-d", "--name", "stays", "--pull", "never", "--label", "davit.node=w1", "busybox", "sleep", "999"
        )
        yield two


def lives(lab: TestLab) -> tuple[str, ...]:
    """What changes when a container, its engine's node, or a node's wire is made anew."""
    pid = lab.docker("inspect", "-f", "{{.State.Pid}}", "stays").stdout.strip()
    return (
        pid,
        lab.exec("w1", "readlink", "/proc/self/ns/net").stdout,
        lab.exec("w1", "cat", "/sys/class/net/eth0/ifindex").stdout,
    )


def apply(lab: TestLab, text: str) -> list[str]:
    lab.file.write_text(text)
    return lab.davit("apply", str(lab.file)).stdout.splitlines()


def test_a_parameter_touches_nothing_else(lab: TestLab) -> None:
    before = lives(lab)
    assert apply(lab, FILE + "  delay: 10ms\n") == ["change the parameters of m1-w1"]
    assert lab.ping_address("m1", "10.214.0.2", 10).median_s == pytest.approx(0.02, abs=0.003)
    assert lives(lab) == before


def test_a_node_and_its_link_come_and_go(lab: TestLab) -> None:
    apply(lab, FILE)
    before = lives(lab)
    text = FILE.replace("  w1:\n", "  w1:\n  w2:\n") + "- between: [w2, m1]\n"
    assert apply(lab, text) == ["add w2", "connect or disconnect w2-m1"]
    ran = lab.docker("run", "--rm", "--pull", "never", "--label", "davit.node=w2", "busybox", "hostname", "-i")
    assert ran.stdout.strip()
    assert lab.ping("w2", "m1").answered == 3
    assert apply(lab, FILE) == ["remove w2", "connect or disconnect w2-m1"]
    assert set(lab.status()["nodes"]) == {"m1", "w1"}
    assert not (lab.root / "grows" / "w2").exists()
    assert lives(lab) == before


def test_an_engine_is_started_again_and_its_containers_go_on(lab: TestLab) -> None:
    apply(lab, FILE)
    before = lives(lab)
    assert apply(lab, FILE.replace("w1:\n", "w1: {labels: {zone: b}, memory: 1g}\n")) == [
        "start the engine again on w1",
        "change the limits of w1",
    ]
    assert lives(lab) == before
    assert "zone=b" in lab.davit("logs", "w1").stdout


def test_other_addresses_make_the_wire_anew(lab: TestLab) -> None:
    text = FILE + "  addresses: {m1: [10.9.0.1/24], w1: [10.9.0.2/24]}\n"
    apply(lab, FILE)
    assert apply(lab, text) == ["replace the wire of m1 to m1-w1", "replace the wire of w1 to m1-w1"]
    assert lab.ping_address("m1", "10.9.0.2").answered == 3


def test_nothing_is_done_twice(lab: TestLab) -> None:
    apply(lab, FILE)
    assert apply(lab, FILE) == ["nothing to do"]


def test_a_wrong_file_changes_nothing(lab: TestLab) -> None:
    lab.file.write_text(FILE + "- between: [m1, w7]\n")
    refused = lab.davit("apply", str(lab.file), check=False)
    assert refused.returncode == 1
    assert "lab.yml:7: links.1.between.1: there is no node w7" in refused.stderr
    assert set(lab.status()["nodes"]) == {"m1", "w1"}
