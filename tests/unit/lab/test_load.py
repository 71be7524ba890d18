"""A lab's file: what is understood, and where it is said to be wrong."""

from __future__ import annotations

import pytest

from lab.topology.load import parse
from lab.topology.model import Topology
from shared.errors import InvalidArgument

CLUSTER = """\
name: demo
nodes:
  m1: {role: manager, memory: 512m, cpus: 1.5, daemon: {debug: true}}
  w1:
  w2: {labels: {zone: a, ssd: true}}
segments:
  lan:
links:
- between: [m1, w1]
  delay: 20ms
  directions: {w1: {loss: 10%}}
"""


def test_what_a_file_says() -> None:
    topology = parse(CLUSTER, "demo.yml")
    assert list(topology.nodes) == ["m1", "w1", "w2"]
    assert topology.nodes["m1"].memory == 512 << 20
    assert topology.nodes["w1"].role == "worker"
    assert topology.nodes["w2"].labels == {"zone": "a", "ssd": "true"}
    assert topology.links[0].delay == pytest.approx(0.02)
    assert topology.links[0].directions["w1"].loss == 10


def test_it_is_the_same_after_it_was_written_down() -> None:
    topology = parse(CLUSTER, "demo.yml")
    assert Topology.model_validate(topology.model_dump(mode="json", exclude_unset=True)) == topology


def test_the_name_is_the_files_when_it_says_none() -> None:
    assert parse("nodes: {m1: {role: manager}}", "x.yml", default_name="x").name == "x"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nodes:\n  m1: {role: boss}\n", "x.yml:2: nodes.m1.role: "),
        ("nodes:\n  m1:\n    role: manager\n    memory: 3 apples\n", "x.yml:4: nodes.m1.memory: '3 apples' is not"),
        ("nodes:\n  m1:\n    role: manager\n    colour: red\n", "x.yml:4: nodes.m1.colour: there is no such field"),
        ("nodes: [1", "x.yml:1: not YAML: "),
        ("nodes:\n  m1:\n  m1:\n", "x.yml:2: nodes.m1: stands twice; the second time in line 3"),
        ("- a\n", "x.yml:1: a lab file is a mapping"),
        ("name: x\n", "nodes: is missing"),
        ("nodes:\n  w1:\n", "x.yml:2: nodes.w1.role: a worker needs a manager"),
        (
            "nodes:\n  m1: {role: manager}\nlinks:\n- between: [m1, m2]\n",
            "x.yml:4: links.0.between.1: there is no node m2",
        ),
        (
            "nodes:\n  m1: {role: manager}\nlinks:\n- between: [m1, m1]\n",
            "x.yml:4: links.0.between: m1 cannot be wired",
        ),
        ("nodes:\n  m1:\n    role: manager\n    image: x\n", "x.yml:4: nodes.m1.image: only a node of role image"),
        (
            "nodes:\n  m1:\n    role: manager\n    daemon: {bip: zzz}\n",
            "x.yml:4: nodes.m1.daemon: configuration key bip",
        ),
        ("nodes:\n  m1:\n    role: manager\n    daemon: {data-root: /x}\n", "x.yml:4: nodes.m1.daemon: the lab itself"),
        ("nodes: {m1: {role: manager}, m2: {role: manager}}", "database: several managers need"),
        ("nodes: {m1: {role: manager}}\nsegments: {m1: }\n", "nodes.m1: a node and a segment cannot have one name"),
        (
            "nodes:\n  m1: {role: manager}\nsegments:\n  a:\n    nodes: [m1, m9]\n",
            "x.yml:5: segments.a.nodes.1: there is no",
        ),
        ("nodes:\n  ../x: {role: manager}\n", "x.yml:2: nodes.../x: "),
        (
            "nodes:\n  m1: {role: manager}\nlinks:\n- between: [m1, m2]\n  delay: 20\n",
            "x.yml:5: links.0.delay: 20 is not",
        ),
        (
            "nodes:\n  m1: {role: manager}\nlinks:\n- between: [m1, m2]\n  loss: 101%\n",
            "x.yml:5: links.0.loss: '101%' is more",
        ),
        ("!!python/object/apply:os.system ['true']", "x.yml:1: not YAML"),
    ],
)
def test_what_is_wrong_is_told_with_line_and_field(text: str, said: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        parse(text, "x.yml")
    assert said in str(refused.value)


def test_several_faults_are_told_at_once() -> None:
    with pytest.raises(InvalidArgument) as refused:
        parse("nodes:\n  m1: {role: boss}\n  m2: {cpus: -1}\n", "x.yml")
    assert [line.split(": ")[0] for line in str(refused.value).splitlines()] == ["x.yml:2", "x.yml:3"]


CONTAINERLAB = """\
name: clab
topology:
  defaults: {env: {A: 1}}
  kinds:
    linux: {image: alpine, env: {B: 2}}
  nodes:
    r1: {kind: linux, cmd: sleep 1000, env: {C: yes}, ports: ["8080:80"], binds: ["/a:/b:ro"], exec: ["ip link"]}
    r2: {kind: linux, image: frr}
  links:
  - endpoints: ["r1:eth1", "r2:eth1"]
    mtu: 9000
"""


def test_a_containerlab_file_of_linux_nodes_is_read() -> None:
    topology = parse(CONTAINERLAB, "x.clab.yml")
    assert topology.name == "clab"
    r1, r2 = topology.nodes["r1"], topology.nodes["r2"]
    assert (r1.role, r1.image, r1.command) == ("image", "alpine", ["sleep", "1000"])
    assert r1.environment == {"A": "1", "B": "2", "C": "true"}
    assert (r1.ports, r1.binds, r1.exec) == (["8080:80"], ["/a:/b:ro"], [["ip", "link"]])
    assert r2.image == "frr"
    assert topology.links[0].ends == [("r1", "eth1"), ("r2", "eth1")]
    assert (topology.links[0].mtu, topology.links[0].addresses) == (9000, {})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("r2: {kind: linux", "r2: {kind: srl"), "x.yml:8: topology.nodes.r2.kind: only nodes of kind linux"),
        (("r2: {kind: linux", "r2: {kind: linux, license: x"), "x.yml:8: topology.nodes.r2.license: is not understood"),
        (("mtu: 9000", "type: vxlan"), "x.yml:11: topology.links.0.type: only veth"),
        (("name: clab", "name: clab\nmgmt: {}"), "x.yml:2: mgmt: is not understood"),
    ],
)
def test_what_containerlab_has_beyond_that_is_refused_by_name(change: tuple[str, str], said: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        parse(CONTAINERLAB.replace(*change), "x.yml")
    assert said in str(refused.value)
