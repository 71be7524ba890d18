"""What is printed of a lab: graphs, the example, the schema."""

from __future__ import annotations

import json
import re
from importlib import resources

from click.testing import CliRunner

from cli.lab import command
from lab import graph
from lab.links.wires import Changes, Wires, cut_key
from lab.topology.check import checked
from lab.topology.load import parse
from lab.topology.model import Topology
from lab.topology.wiring import wire

VALUES = {
    "name": "x",
    "nodes": {"m1": {"role": "manager"}, "w1": {}},
    "segments": {"lan": {}},
    "links": [{"between": ["m1", "w1"], "delay": "20ms", "directions": {"w1": {"loss": "1%"}}}],
}


def test_as_text() -> None:
    topology = checked(VALUES)
    nets = wire(topology, {})
    assert graph.text(topology, nets, Wires(topology, nets, Changes(cuts={cut_key("m1", "lan")}))) == [
        "lan (segment)",
        "├── m1 [manager] eth0 10.213.0.1/24",
        "│     → w1: cut",
        "└── w1 [worker] eth0 10.213.0.2/24",
        "      → m1: cut",
        "m1-w1 (link)",
        "├── m1 [manager] eth1 10.214.0.1/30",
        "│     → w1: delay 20ms",
        "└── w1 [worker] eth1 10.214.0.2/30",
        "      → m1: delay 20ms loss 1%",
    ]


def test_as_mermaid() -> None:
    topology = checked(VALUES)
    nets = wire(topology, {})
    assert graph.mermaid(topology, nets, Wires(topology, nets, Changes(cuts={cut_key("m1", "lan")}))) == [
        "flowchart LR",
        '    n0("m1<br/>manager")',
        '    n1("w1<br/>worker")',
        '    s0["lan"]',
        "    n0 -.- s0",
        "    n1 -.- s0",
        "    n0 ---|delay 20ms / delay 20ms loss 1%| n1",
    ]


def test_the_example_is_a_lab_also_with_all_that_is_commented_out() -> None:
    text = CliRunner().invoke(command, ["init"]).output
    assert text == (resources.files("lab.topology") / "example.yml").read_text()
    assert list(parse(text, "example.yml").nodes) == ["m1", "w1", "w2"]
    whole = re.sub(r"^( *)# (?=images:|ports:|routes:|exec:|r1:|database:|faults:|  - |seed:)", r"\1", text, flags=re.M)
    topology = parse(whole, "example.yml")
    assert (topology.database, topology.seed, len(topology.faults)) == ("postgres", 1, 3)
    assert topology.nodes["r1"].role == "image"
    assert topology.nodes["w2"].ports == ["8080:80"]


def test_the_schema_has_every_field() -> None:
    schema = json.loads(CliRunner().invoke(command, ["schema"]).output)
    assert set(schema["properties"]) == set(Topology.model_fields)
    assert schema["$defs"]["Node"]["additionalProperties"] is False
