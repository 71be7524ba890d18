"""What links do to frames: one suite for both back ends, the kernel's netem and the lab's relay."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import time
from collections.abc import Iterator

import pytest

from lab.links.timing import CHOICE, has_netem
from tests.lab.engine import eventually
from tests.lab.labs import TestLab, require_root

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

FILE = """\
nodes:
  m1: {role: manager}
  w1:
segments:
  lan: {nodes: [m1, w1]}
links:
- between: [m1, w1]
"""
LINK, LAN = ("10.214.0.1", "10.214.0.2"), ("10.213.0.1", "10.213.0.2")

SINK = """\
import socket, sys, time
server = socket.create_server(("", 5001)); print("ready", flush=True)
client, _ = server.accept()
device = sys.argv[1]
received = lambda: int(open(f"/sys/class/net/{device}/statistics/rx_bytes").read())
client.recv(1 << 20); start = time.monotonic(); lead = start + 0.5; end = start + 2.5; before = None
while time.monotonic() < end:
    client.recv(1 << 20)
    if before is None and time.monotonic() > lead:
        before, since = received(), time.monotonic()
print((received() - before) * 8 / (time.monotonic() - since))
"""
SOURCE = """\
import socket, sys
client = socket.create_connection((sys.argv[1], 5001))
try:
    while True: client.send(bytes(1 << 16))
except OSError: pass
"""


@pytest.fixture(scope="module", params=["relay", "netem"])
def lab(request: pytest.FixtureRequest) -> Iterator[TestLab]:
    require_root()
    if request.param == "netem" and not has_netem():
        pytest.skip("this kernel has no netem")
    with TestLab(FILE, environment={CHOICE: "relay"} if request.param == "relay" else {}) as two:
        yield two


@pytest.fixture(autouse=True)
def nothing_done(lab: TestLab) -> Iterator[None]:
    yield
    lab.davit("heal")
    lab.davit("link", "m1", "w1", "--reset")
    lab.davit("link", "m1", "lan", "--reset")


def test_a_delay_is_that_delay(lab: TestLab) -> None:
    lab.davit("link", "m1", "w1", "--delay", "20ms", "--one-way")
    median_s = min(lab.ping_address("m1", LINK[1], 60, 0.02).median_s for _ in range(3))
    assert 0.020 <= median_s <= 0.021
    lab.davit("link", "w1", "m1", "--delay", "30ms", "--one-way")
    assert lab.ping_address("m1", LINK[1], 20).median_s == pytest.approx(0.050, abs=0.003)
    assert lab.ping_address("m1", LAN[1], 20).median_s < 0.010, "the other wire is as it was"


def test_jitter_spreads_around_the_delay(lab: TestLab) -> None:
    lab.davit("link", "m1", "w1", "--delay", "20ms", "--jitter", "10ms", "--one-way")
    pings = lab.ping_address("m1", LINK[1], 120, 0.021)
    assert pings.median_s == pytest.approx(0.020, abs=0.003)
    assert 0.010 <= pings.least_s < 0.014
    assert pings.most_s > 0.026


def test_loss_is_that_share(lab: TestLab) -> None:
    lab.davit("link", "m1", "w1", "--loss", "10%", "--one-way")
    assert 8900 <= lab.ping_address("m1", LINK[1], 10_000, 0.0002).answered <= 9100


def test_loss_and_delay_together(lab: TestLab) -> None:
    lab.davit("link", "m1", "w1", "--loss", "30%", "--delay", "5ms", "--one-way")
    pings = lab.ping_address("m1", LINK[1], 2000, 0.001)
    assert 1300 <= pings.answered <= 1500
    assert pings.median_s == pytest.approx(0.005, abs=0.002)


@pytest.mark.parametrize("rate", ["8mbit", "80mbit"])
@pytest.mark.parametrize("delay", [[], ["--delay", "1ms"]])
def test_a_rate_is_that_rate(lab: TestLab, rate: str, delay: list[str]) -> None:
    lab.davit("link", "m1", "w1", "--rate", rate, *delay, "--one-way")
    wanted = int(rate.removesuffix("mbit")) * 1_000_000
    assert measured_rate(lab, LINK[1], "eth1") == pytest.approx(wanted, rel=0.05)


def test_a_rate_of_a_way_to_a_segment(lab: TestLab) -> None:
    lab.davit("link", "m1", "lan", "--rate", "8mbit", "--one-way")
    assert measured_rate(lab, LAN[1], "eth0") == pytest.approx(8_000_000, rel=0.05)


def measured_rate(lab: TestLab, address: str, device: str) -> float:
    """Bits per second that arrive at w1's device when m1 sends as much as it can."""
    sink = subprocess.Popen(
        lab.command("exec", "w1", "python3", "-c", SINK, device),
        env=lab.environment, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert sink.stdout is not None
    with sink:
        assert sink.stdout.readline() == "ready\n"
        source = subprocess.Popen(lab.command("exec", "m1", "python3", "-c", SOURCE, address), env=lab.environment)
        try:
            return float(sink.stdout.readline())
        finally:
            source.kill()
            source.wait()


def test_duplicates(lab: TestLab) -> None:
    lab.davit("link", "m1", "w1", "--duplicate", "50%", "--one-way")
    pings = lab.ping_address("m1", LINK[1], 1000, 0.001)
    assert pings.answered == 1000
    assert 1400 <= pings.answers <= 1600


def test_what_is_corrupted_is_noticed(lab: TestLab) -> None:
    lab.davit("link", "m1", "w1", "--corrupt", "30%", "--one-way")
    assert 620 <= lab.ping_address("m1", LINK[1], 1000, 0.001).answered <= 780


def test_frames_overtake_only_when_asked(lab: TestLab) -> None:
    lab.davit("link", "m1", "w1", "--delay", "20ms", "--one-way")
    assert lab.ping_address("m1", LINK[1], 200, 0.002).overtaken == 0
    lab.davit("link", "m1", "w1", "--reorder", "25%", "--one-way")
    assert lab.ping_address("m1", LINK[1], 200, 0.002).overtaken > 10


def test_cuts(lab: TestLab) -> None:
    lab.davit("cut", "m1", "lan")
    assert lab.ping_address("m1", LAN[1]).answered == 0
    assert lab.ping_address("m1", LINK[1]).answered == 3
    lab.davit("isolate", "w1")
    assert lab.ping_address("m1", LINK[1]).answered == 0
    lab.davit("heal", "w1")
    assert lab.ping_address("m1", LINK[1]).answered == 3
    assert lab.ping_address("m1", LAN[1]).answered == 0
    lab.davit("heal", "lan", "m1")
    assert lab.ping_address("m1", LAN[1]).answered == 3


def test_a_cut_of_a_delayed_link_lets_nothing_pass(lab: TestLab) -> None:
    lab.davit("link", "m1", "w1", "--delay", "5ms")
    lab.davit("cut", "m1", "w1")
    assert lab.ping_address("m1", LINK[1]).answered == 0
    lab.davit("heal")
    assert lab.ping_address("m1", LINK[1]).median_s > 0.009


def test_a_node_that_was_off_has_its_links_parameters_again(lab: TestLab) -> None:
    lab.davit("link", "m1", "w1", "--delay", "10ms")
    lab.davit("link", "w1", "lan", "--delay", "15ms", "--rate", "10mbit")
    lab.davit("kill", "w1")
    lab.davit("restart", "w1")
    assert lab.ping_address("m1", LINK[1], 20).median_s == pytest.approx(0.020, abs=0.003)
    assert lab.ping_address("m1", LAN[1], 20).median_s == pytest.approx(0.030, abs=0.003)
    lab.davit("link", "w1", "lan", "--reset")


def test_a_killed_relay_is_back_by_itself(lab: TestLab) -> None:
    lab.davit("link", "m1", "lan", "--delay", "5ms")  # on a segment it is the relay's with either back end
    for pid in sorted(lab.pids("relay.py"), reverse=True)[:1]:
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: lab.ping_address("m1", LAN[1]).answered == 3, 10, "an answer")
    for pid in lab.pids("relay.py"):
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: not lab.status()["healthy"], 5, "notice of it")
    lab.davit("up")
    assert lab.ping_address("m1", LAN[1]).median_s > 0.009


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["link", "m1", "w1", "--delay", "20"], "--delay: '20' is not of the form"),
        (["link", "m1", "w9", "--delay", "20ms"], "there is no link between m1 and w9"),
        (["link", "m1", "w1", "--loss", "200%"], "--loss: '200%' is more than 100%"),
        (["cut", "m1", "m1"], "there is no link between m1 and m1"),
        (["isolate", "w9"], "has no node w9"),
        (["link", "m1", "w1"], "give parameters, or --reset"),
    ],
)
def test_what_makes_no_sense_is_refused(lab: TestLab, words: list[str], said: str) -> None:
    refused = lab.davit(*words, check=False)
    assert refused.returncode in (1, 2)
    assert said in refused.stderr


def test_a_capture_has_what_went_over_the_wire(lab: TestLab) -> None:
    file = lab.base / "trace.pcap"
    tap = subprocess.Popen(lab.command("capture", "m1-w1", str(file), "--for", "20s"), env=lab.environment)
    try:
        eventually(lambda: file.exists() and file.stat().st_size >= 24, 10, "the file's head")
        lab.ping_address("m1", LINK[1], 5)
        eventually(lambda: len(echoes(file.read_bytes())) == 10, 10, "all frames")
    finally:
        tap.send_signal(signal.SIGINT)
        assert tap.wait(10) == 0
    frames = echoes(file.read_bytes())
    assert [kind for kind, _ in frames].count(8) == 5
    assert all(abs(at - time.time()) < 60 for _, at in frames)


def echoes(data: bytes) -> list[tuple[int, float]]:
    """Type and time of each ICMP echo in a pcap file."""
    magic, _, _, _, _, _, kind = struct.unpack_from("=IHHiIII", data)
    assert (magic, kind) == (0xA1B23C4D, 1)
    at, found = 24, []
    while at + 16 <= len(data):
        seconds, nanoseconds, length, _ = struct.unpack_from("=IIII", data, at)
        frame = data[at + 16 : at + 16 + length]
        at += 16 + length
        if frame[12:14] == b"\x08\x00" and frame[23] == 1:
            found.append((frame[34], seconds + nanoseconds / 1e9))
    return found
