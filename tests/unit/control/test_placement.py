"""Which node a container goes to, and what is said when there is none."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.executor.control.cluster.constraints import NodeTraits, wanted
from services.executor.control.cluster.placement import Candidate, Demand, place
from shared.contracts.containers import NodeFacts
from shared.errors import InvalidArgument, Unavailable

GIB = 1 << 30


def node(
    name: str, *, labels: dict[str, str] | None = None, cpus: int = 4, memory: int = 8 * GIB, **more: Any
) -> Candidate:
    facts = NodeFacts(node=name, architecture="x86_64", cpus=cpus, memory_bytes=memory, runtimes={"runc": ""})
    return Candidate(facts, NodeTraits(f"id-{name}", name, "worker", "x86_64", labels or {}, {"disk": "ssd"}), **more)


def demand(labels: dict[str, str] | None = None, **more: Any) -> Demand:
    return Demand(wanted(labels or {}), **more)


def chosen(nodes: list[Candidate], labels: dict[str, str] | None = None, **more: Any) -> str:
    return place(nodes, demand(labels, **more)).name


def test_the_emptiest_then_the_one_with_fewest_containers_then_the_first_by_name() -> None:
    assert chosen([node("a", load=3.0), node("b", load=0.1)]) == "b"
    assert chosen([node("a", available_bytes=GIB), node("b", available_bytes=7 * GIB)]) == "b"
    assert chosen([node("b", containers=2), node("a", containers=3)]) == "b"
    assert chosen([node("b"), node("a")]) == "a"
    assert chosen([node("b", load=0.2), node("a", load=0.3)]) == "a", "a trifle decides nothing"


def test_packing_takes_the_fullest_that_has_room() -> None:
    nodes = [node("a", load=2.0), node("b"), node("c", reserved_bytes=8 * GIB)]
    assert chosen(nodes, {"davit.pack": "true"}, memory_bytes=GIB) == "a"


def test_spreading_goes_by_the_label() -> None:
    nodes = [
        node("a", labels={"zone": "1"}, containers=3),
        node("b", labels={"zone": "1"}),
        node("c", labels={"zone": "2"}, containers=2),
    ]
    assert chosen(nodes) == "b"
    assert chosen(nodes, {"davit.spread": "node.labels.zone"}) == "c"


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("node.labels.zone==B", "b"),
        ("node.labels.zone!=a", "b"),
        ("node.hostname==b", "b"),
        ("node.id==id-b", "b"),
        ("node.role==worker", "a"),
        ("engine.labels.disk==ssd,node.labels.zone==b", "b"),
        ("node.labels.zone==~b", "b"),
        ("node.labels.zone==~z", "a"),
    ],
)
def test_constraints(expression: str, expected: str) -> None:
    nodes = [node("a", labels={"zone": "a"}), node("b", labels={"zone": "b"})]
    assert chosen(nodes, {"davit.constraint": expression}) == expected


def test_affinities() -> None:
    nodes = [node("a", names={"web"}, images={"nginx"}), node("b", volumes={"data"}, containers=1)]
    assert chosen(nodes, {"davit.affinity": "container!=web"}) == "b"
    assert chosen(nodes, {"davit.affinity": "image==nginx"}) == "a"
    assert chosen(nodes, {"davit.affinity": "volume==data"}) == "b"
    assert chosen(nodes, {"davit.affinity": "container==~nothing"}) == "a"
    with pytest.raises(InvalidArgument, match="a: it does not meet container==db; b: it does not meet container==db"):
        chosen(nodes, {"davit.affinity": "container==db"})


def test_the_reason_is_told_for_each_node() -> None:
    nodes = [
        node("a", up=False),
        node("b", availability="drain"),
        node("c", reserved_bytes=8 * GIB),
        node("d", ports={"80/tcp"}),
    ]
    with pytest.raises(Unavailable) as refused:
        chosen(nodes, memory_bytes=GIB, ports={"80/tcp"})
    assert refused.value.message == (
        "no node can run this container: a: it is down; b: its availability is drain; "
        "c: of its memory 0 bytes are not reserved; d: port 80/tcp is taken"
    )


def test_what_it_uses_decides() -> None:
    nodes = [node("a"), node("b")]
    assert chosen(nodes, pinned=(("b", "volume data"),)) == "b"
    with pytest.raises(InvalidArgument, match="a: volume data is on b; b: container web is on a"):
        chosen(nodes, pinned=(("b", "volume data"), ("a", "container web")))


def test_other_hardware_and_runtimes_are_ruled_out_for_good() -> None:
    with pytest.raises(InvalidArgument, match="it is amd64, not arm64"):
        chosen([node("a")], architecture="arm64")
    with pytest.raises(InvalidArgument, match="it has no runtime crun"):
        chosen([node("a")], runtime="crun")


def test_a_named_node() -> None:
    assert chosen([node("a"), node("b", containers=9)], {"davit.node": "b"}) == "b"
    with pytest.raises(InvalidArgument, match="there is no node 'c'"):
        chosen([node("a")], {"davit.node": "c"})
    with pytest.raises(Unavailable, match=r"container: b: it is down$"):
        chosen([node("a"), node("b", up=False)], {"davit.node": "b"})


@pytest.mark.parametrize(
    "labels",
    [
        {"davit.constraint": "zone==a"},
        {"davit.constraint": "node.labels.zone=a"},
        {"davit.affinity": "network==a"},
        {"davit.spread": "zone"},
        {"davit.reschedule": "always"},
        {"davit.constraint": "node.labels.==a"},
    ],
)
def test_what_cannot_be_read_is_refused_by_name(labels: dict[str, str]) -> None:
    with pytest.raises(InvalidArgument, match=f"label {next(iter(labels))}: "):
        wanted(labels)


@given(
    loads=st.lists(st.floats(0, 8), min_size=1, max_size=6),
    down=st.sets(st.integers(0, 5)),
    memory=st.integers(0, 10 * GIB),
)
def test_who_is_chosen_can_run_it(loads: list[float], down: set[int], memory: int) -> None:
    nodes = [node(f"n{number}", load=load, up=number not in down) for number, load in enumerate(loads)]
    usable = [one for one in nodes if one.up and memory <= one.facts.memory_bytes]
    if not usable:
        with pytest.raises(Unavailable):
            place(nodes, Demand(memory_bytes=memory))
        return
    best = place(nodes, Demand(memory_bytes=memory))
    assert best in usable
    assert int(best.free_share * 10) == max(int(one.free_share * 10) for one in usable)
