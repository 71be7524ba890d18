"""Networks, addresses and the parameters of wires, from the file alone."""

from __future__ import annotations

import ipaddress

import pytest

from lab.links.rules import ruleset
from lab.links.timing import queues, relayed
from lab.links.wires import ALL, Changes, Flow, Wires, cut_key, directions, named_pair
from lab.topology.check import checked
from lab.topology.impairment import Impairment
from lab.topology.model import Topology
from lab.topology.wiring import Net, wire
from shared.errors import InvalidArgument, NotFound


def topology(**values: object) -> Topology:
    nodes = {"m1": {"role": "manager"}, "w1": {}, "w2": {}}
    return checked({"name": "x", "nodes": nodes} | values)


def flows(of: Topology, changes: Changes | None = None) -> dict[tuple[str, str, str], Flow]:
    wires = Wires(of, wire(of, {}), changes or Changes())
    return {(flow.net, flow.source, flow.target): flow for flow in wires.flows()}


class TestAddresses:
    def test_without_links_all_are_on_one_segment(self) -> None:
        (lan,) = wire(topology(), {})
        assert (lan.name, lan.is_link) == ("lan", False)
        assert [port.addresses for port in lan.ports] == [("10.213.0.1/24",), ("10.213.0.2/24",), ("10.213.0.3/24",)]

    def test_each_interface_and_subnet_is_used_once(self) -> None:
        nets = wire(
            topology(segments={"a": {}, "b": {}}, links=[{"between": ["m1", "w1"]}, {"between": ["m1", "w1"]}]), {}
        )
        assert [net.name for net in nets] == ["a", "b", "m1-w1", "m1-w1-2"]
        ports = [port for net in nets for port in net.ports]
        assert len({(port.node, port.interface) for port in ports}) == len(ports)
        assert len({port.mac for port in ports}) == len(ports)
        subnets = {ipaddress.ip_interface(net.ports[0].addresses[0]).network for net in nets}
        assert len(subnets) == 4

    def test_given_ones_are_kept_and_not_given_twice(self) -> None:
        segments = {"lan": {"subnet": "192.168.9.0/24", "addresses": {"w2": ["192.168.9.1/24"]}}}
        (lan,) = wire(topology(segments=segments), {})
        assert [port.addresses for port in lan.ports] == [("192.168.9.2/24",), ("192.168.9.3/24",), ("192.168.9.1/24",)]

    def test_what_is_not_mentioned_stays_when_the_file_changes(self) -> None:
        choices: dict[str, str] = {}
        links = [{"between": ["m1", "w1"]}, {"between": ["m1", "w2"]}]
        before = wire(topology(links=links), choices)
        after = wire(topology(links=[{"between": ["w1", "w2"]}, links[1]]), choices)
        assert after[1] == before[1]
        assert "m1-w1" not in choices

    def test_interfaces_may_be_named(self) -> None:
        (net,) = wire(topology(links=[{"between": ["m1:eth3", "w1"], "addresses": {}}]), {})
        assert [(port.interface, port.addresses) for port in net.ports] == [("eth3", ()), ("eth0", ())]

    def test_a_full_subnet_is_refused(self) -> None:
        with pytest.raises(ValueError, match="no address left for w2"):
            wire(topology(segments={"lan": {"subnet": "192.168.9.0/30"}}), {})


class TestWires:
    def test_each_direction_of_a_link_is_its_own(self) -> None:
        links = [{"between": ["m1", "w1"], "delay": "20ms", "loss": "1%", "directions": {"w1": {"loss": "5%"}}}]
        found = flows(topology(links=links))
        assert found["m1-w1", "m1", "w1"].impairment == Impairment(delay="20ms", loss=1)
        assert found["m1-w1", "w1", "m1"].impairment == Impairment(delay="20ms", loss=5)

    def test_on_a_segment_both_ways_add_up(self) -> None:
        found = flows(topology(segments={"lan": {"delay": "5ms", "loss": "50%", "rate": "10mbit"}}))
        impairment = found["lan", "w1", "w2"].impairment
        assert impairment.delay == pytest.approx(0.01)
        assert impairment.loss == pytest.approx(75)
        assert impairment.rate == 10_000_000

    def test_commands_replace_what_the_file_says(self) -> None:
        changes = Changes(parameters={"lan|w1|w2": Impairment(delay="7ms")})
        found = flows(topology(), changes)
        assert found["lan", "w1", "w2"].impairment.delay == pytest.approx(0.007)
        assert not found["lan", "w2", "w1"].impairment.anything

    @pytest.mark.parametrize(
        ("cut", "silent"),
        [
            (cut_key("w1", "m1"), {("m1", "w1"), ("w1", "m1")}),
            (cut_key("w1", ALL), {("m1", "w1"), ("w1", "m1"), ("w1", "w2"), ("w2", "w1")}),
            (cut_key("lan", "w2"), {("m1", "w2"), ("w2", "m1"), ("w1", "w2"), ("w2", "w1")}),
        ],
    )
    def test_a_cut_silences_both_directions(self, cut: str, silent: set[tuple[str, str]]) -> None:
        found = flows(topology(), Changes(cuts={cut}))
        assert {(source, target) for (_, source, target), flow in found.items() if flow.cut} == silent

    def test_names_mean_the_link_else_the_shared_segments(self) -> None:
        nets = wire(topology(segments={"lan": {}}, links=[{"between": ["m1", "w1"]}]), {})
        assert directions(nets, "w1", "m1") == [("m1-w1", "w1", "m1"), ("m1-w1", "m1", "w1")]
        assert directions(nets, "w1", "w2") == [("lan", "w1", "w2"), ("lan", "w2", "w1")]
        assert directions(nets, "w1", "lan") == [("lan", "w1", ALL), ("lan", ALL, "w1")]
        assert directions(nets, "lan", "w1") == [("lan", ALL, "w1"), ("lan", "w1", ALL)]
        with pytest.raises(NotFound):
            directions(nets, "w1", "w9")

    def test_a_pair_is_found_in_spite_of_dashes(self) -> None:
        assert named_pair("a-b-c", ["a", "b-c", "d"]) == ("a", "b-c")
        with pytest.raises(InvalidArgument):
            named_pair("a-b-c", ["a", "b"])


class TestMeans:
    def nets(self) -> tuple[Topology, list[Net]]:
        links = [{"between": ["m1", "w1"], "delay": "20ms", "rate": "1mbit"}]
        of = topology(links=links, segments={"lan": {"delay": "1ms", "rate": "5mbit", "nodes": ["w1", "w2"]}})
        return of, wire(of, {})

    def test_netem_does_what_is_a_links_own_the_relay_the_rest(self) -> None:
        of, nets = self.nets()
        wires = Wires(of, nets, Changes())
        assert {flow.net for flow in relayed(wires.flows(), nets, netem=True)} == {"lan"}
        assert {flow.net for flow in relayed(wires.flows(), nets, netem=False)} == {"lan", "m1-w1"}
        by_netem = [queue.netem for queue in queues(nets, wires, netem=True) if queue.netem]
        assert len(by_netem) == 2
        assert all(queue.netem is None for queue in queues(nets, wires, netem=False))

    def test_rates_of_a_segment_wait_on_both_sides(self) -> None:
        of, nets = self.nets()
        found = queues(nets, Wires(of, nets, Changes()), netem=False)
        assert [(queue.node, queue.rate) for queue in found] == [
            ("", 5_000_000), ("w1", 5_000_000), ("", 5_000_000), ("w2", 5_000_000), ("", 1_000_000), ("", 1_000_000),
        ]  # fmt: skip

    def test_rules_stop_what_the_relay_has_and_draw_lots_for_losses(self) -> None:
        lost = Flow("n", "a", "b", Impairment(loss=10))
        timed = Flow("n", "b", "a", Impairment(delay="1ms", loss=10))
        text = ruleset([lost, timed, Flow("n", "a", "c")], [timed], [])
        assert text.count("numgen random mod 1000000 < 100000 drop") == 1
        assert text.count("iifname . oifname {") == 1
        assert len(text.splitlines()) == 6
