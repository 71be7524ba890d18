"""`davit dockerd`: dockerd's flags, its signals, and several of them side by side."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.conftest import require_root
from tests.lab.dockerd import Dockerd
from tests.lab.engine import eventually
from tests.lab.leftovers import runs
from tests.lab.netns import NetworkNamespace, run

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def netns() -> Iterator[NetworkNamespace]:
    require_root()
    with NetworkNamespace() as namespace:
        yield namespace


@pytest.fixture(autouse=True)
def no_containers() -> None:
    """In the place of the one for the session's engine, which is not used here."""


def pid_of(engine: Dockerd, name: str) -> int:
    return int(engine.docker("inspect", "-f", "{{.State.Pid}}", name))


# Signals


@pytest.fixture
def engine(netns: NetworkNamespace) -> Iterator[Dockerd]:
    with Dockerd(netns) as one:
        yield one


def test_its_containers_end_with_it_and_come_back_by_their_policy(engine: Dockerd) -> None:
    trap = "trap 'echo bye; exit 3' TERM; while :; do sleep 0.1; done"
    engine.docker("run", "-d", "--name", "plain", "busybox", "sh", "-c", trap)
    engine.docker("run", "-d", "--name", "kept", "--restart", "unless-stopped", "busybox", "sh", "-c", trap)
    engine.docker("run", "-d", "--name", "left", "--restart", "unless-stopped", "busybox", "sh", "-c", trap)
    engine.docker("stop", "-t", "5", "left")
    pids = [pid_of(engine, name) for name in ("plain", "kept")]
    assert int((engine.base / "run" / "docker.pid").read_text()) == engine.process.pid  # type: ignore[union-attr]
    assert engine.stop() == 0
    assert not any(runs(pid) for pid in pids)
    assert engine.processes() == []
    assert not (engine.base / "run" / "docker.pid").exists()
    assert not engine.socket.exists()

    engine.start()
    states = dict(line.split() for line in engine.docker("ps", "-a", "--format", "{{.Names}} {{.State}}").splitlines())
    eventually(lambda: engine.docker("inspect", "-f", "{{.State.Running}}", "kept") == "true", what="its return")
    assert states["plain"] == states["left"] == "exited"
    assert engine.docker("inspect", "-f", "{{.State.ExitCode}}", "plain") == "3"
    assert "bye" in engine.docker("logs", "plain")


def test_live_restore_keeps_them_and_a_kill_loses_nothing(netns: NetworkNamespace) -> None:
    with Dockerd(netns, "--live-restore", "--label", "a=1") as engine:
        engine.docker("run", "-d", "--name", "on", "busybox", "sh", "-c", "while :; do date +%s; sleep 0.2; done")
        pid = pid_of(engine, "on")
        assert engine.stop(signal.SIGINT) == 0
        assert runs(pid)
        engine.start()
        assert pid_of(engine, "on") == pid
        assert json.loads(engine.docker("info", "-f", "{{json .}}"))["LiveRestoreEnabled"] is True

        # Killed, all of it ends but the containers; the next one may come at once.
        assert engine.stop(signal.SIGKILL) == -signal.SIGKILL
        engine.start()
        assert runs(pid)
        assert pid_of(engine, "on") == pid
        assert engine.docker("exec", "on", "echo", "here") == "here"


def test_sighup_reads_the_file_again(netns: NetworkNamespace, tmp_path: Path) -> None:
    file = tmp_path / "daemon.json"
    file.write_text('{"labels": ["a=1"]}')
    with Dockerd(netns, "--config-file", str(file)) as engine:
        assert json.loads(engine.docker("info", "-f", "{{json .Labels}}")) == ["a=1"]
        file.write_text('{"labels": ["b=2"]}')
        engine.send(signal.SIGHUP)
        eventually(lambda: json.loads(engine.docker("info", "-f", "{{json .Labels}}")) == ["b=2"], what="the label")


def test_systemd_is_told_by_the_process_that_it_started(netns: NetworkNamespace, tmp_path: Path) -> None:
    import socket

    path = f"/var/tmp/notify-{os.getpid()}.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        listener.settimeout(30)
        listener.bind(path)
        engine = Dockerd(netns)
        try:
            engine.start(NOTIFY_SOCKET=path)
            said, credentials, _, _ = listener.recvmsg(64, socket.CMSG_SPACE(12))
            assert said == b"READY=1"
            assert int.from_bytes(credentials[0][2][:4], "little") == engine.process.pid  # type: ignore[union-attr]
        finally:
            engine.close()
            os.unlink(path)


# Flags


def test_flags_have_their_effect(netns: NetworkNamespace) -> None:
    flags = (
        "--bip=10.99.0.1/24", "--fixed-cidr=10.99.0.128/25", "--mtu=1400", "--icc=false", "--ip-masq=false",
        "--dns=192.0.2.53", "--dns-search=example.test", "--dns-opt=ndots:3", "--default-ulimit=nofile=123:456",
        "--default-shm-size=32m", "--init", "--log-opt=max-size=1m", "--log-driver=json-file", "--label=x=y",
        "--default-address-pool=base=10.98.0.0/16,size=24", "--storage-driver=overlay2", "--experimental=false",
        "--containerd=/run/containerd/containerd.sock", "--cgroup-parent=/davit-flags",
    )  # fmt: skip
    with Dockerd(netns, *flags) as engine:
        engine.docker("run", "-d", "--name", "one", "busybox", "sleep", "1000")
        network = engine.inspect("container", "one")["NetworkSettings"]["Networks"]["bridge"]
        assert (network["Gateway"], network["IPAddress"]) == ("10.99.0.1", "10.99.0.128")
        inside = engine.docker("exec", "one", "cat", "/sys/class/net/eth0/mtu", "/etc/resolv.conf", "/proc/1/comm")
        lines = inside.splitlines()
        assert lines[0] == "1400"
        assert {"nameserver 192.0.2.53", "search example.test", "options ndots:3"} <= set(lines)
        assert lines[-1] != "sleep"  # an init
        limits = engine.docker("exec", "one", "sh", "-c", "ulimit -n; ulimit -Hn; df -k /dev/shm | tail -1")
        assert limits.split()[:2] == ["123", "456"]
        assert limits.split()[3] == str(32 * 1024)
        assert "/davit-flags/" in Path(f"/proc/{pid_of(engine, 'one')}/cgroup").read_text()
        host = engine.inspect("container", "one")["HostConfig"]
        assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "1m"}}

        engine.docker("run", "-d", "--name", "two", "busybox", "sleep", "1000")
        ping = engine.docker("exec", "two", "ping", "-c1", "-W1", "10.99.0.128", check=False)
        assert "100% packet loss" in ping  # icc
        table = masquerading(netns, engine)
        assert "10.99.0.0" not in table  # ip-masq
        engine.docker("network", "create", "more")
        assert engine.inspect("network", "more")["IPAM"]["Config"][0]["Subnet"] == "10.98.0.0/24"
        assert "storage-driver: layers are overlay mounts" in engine.log
        assert "containerd: containers are the agent's" in engine.log


def instance(engine: Dockerd) -> str:
    return (engine.base / "data" / "instance").read_text().strip()


def masquerading(netns: NetworkNamespace, engine: Dockerd) -> str:
    name = f"davit_{instance(engine)}"
    return str(run(*netns.enter, "nft", "list", "set", "inet", name, "masquerade4").stdout)


def test_without_iptables_no_firewall_is_touched_and_ports_are_carried(netns: NetworkNamespace) -> None:
    before = run(*netns.enter, "nft", "list", "ruleset").stdout
    with Dockerd(netns, "--iptables=false", "--ip6tables=false") as engine:
        engine.docker(
            "run", "-d", "--name", "web", "--init", "-p", "18080:80", "busybox", "sh", "-c",
            "echo carried > /index.html; httpd -f -h /",
        )  # fmt: skip
        fetch = (*netns.enter, "curl", "-s", "--max-time", "5", "http://127.0.0.1:18080/")
        eventually(lambda: run(*fetch, check=False).stdout == "carried\n", what="the page")
        assert run(*netns.enter, "nft", "list", "ruleset").stdout == before


def test_without_ip6tables_packets_of_ipv6_pass_by(netns: NetworkNamespace) -> None:
    with Dockerd(netns, "--ip6tables=false") as engine:
        name = f"davit_{instance(engine)}"
        chain = run(*netns.enter, "nft", "list", "chain", "inet", name, "forward").stdout
        rules = [line.strip() for line in chain.splitlines() if "policy" not in line]
        assert "meta nfproto ipv6 accept" in rules[2]


def test_a_bridge_of_somebody_else_and_none_at_all(netns: NetworkNamespace) -> None:
    run(*netns.enter, "ip", "link", "add", "mine", "type", "bridge")
    run(*netns.enter, "ip", "address", "add", "10.97.0.1/24", "dev", "mine")
    run(*netns.enter, "ip", "address", "add", "10.96.0.1/24", "dev", "mine")
    run(*netns.enter, "ip", "link", "set", "mine", "up")
    try:
        with Dockerd(netns, "--bridge=mine") as engine:
            address = engine.docker("run", "--rm", "busybox", "ip", "-o", "-4", "address", "show", "eth0")
            assert "10.97.0.2/24" in address
            assert engine.docker("run", "--rm", "busybox", "ping", "-c1", "-W2", "10.97.0.1").count("0% packet loss")
            shown = run(*netns.enter, "ip", "-o", "address", "show", "mine").stdout
            assert "10.96.0.1/24" in shown  # what its owner put there stays

            # The same roots without a default network: containers have none then.
            engine.stop()
            engine.arguments = ("--bridge=none",)
            engine.start()
            assert "bridge" not in engine.docker("network", "ls", "--format", "{{.Name}}").split()
            assert engine.docker("run", "--rm", "busybox", "ls", "/sys/class/net") == "lo"
        assert "mine" in run(*netns.enter, "ip", "link").stdout
    finally:
        run(*netns.enter, "ip", "link", "del", "mine")


# Several


def test_three_in_one_network_namespace_do_not_meet(netns: NetworkNamespace) -> None:
    with ExitStack() as stack:
        engines = [Dockerd(netns) for _ in range(3)]
        for engine in engines:
            stack.callback(engine.close)
        # All at once: what is chosen is chosen at the same time.
        for engine in engines:
            engine.spawn()
        for engine in engines:
            eventually(engine.answers, 60, f"an answer: {engine.log[-1000:]}")
            engine.import_busybox()
        for number, engine in enumerate(engines):
            engine.docker("network", "create", "own")
            engine.docker(
                "run", "-d", "--name", "web", "--init", "-p", "80", "-p", f"1900{number}:80", "busybox", "sh", "-c",
                f"echo {number} > /index.html; httpd -f -h /",
            )  # fmt: skip
            engine.docker("run", "-d", "--name", "other", "--network", "own", "busybox", "sleep", "1000")

        for kind in ("bridge", "own"):
            subnets = [engine.inspect("network", kind)["IPAM"]["Config"][0]["Subnet"] for engine in engines]
            assert len(set(subnets)) == 3, subnets
        bridges = [engine.inspect("network", "bridge")["Options"][BRIDGE] for engine in engines]
        assert len(set(bridges)) == 3
        tables = run(*netns.enter, "nft", "list", "tables").stdout.split()
        assert {f"davit_{instance(engine)}" for engine in engines} <= set(tables)
        groups = [Path(f"/proc/{pid_of(engine, 'web')}/cgroup").read_text() for engine in engines]
        for engine, group in zip(engines, groups, strict=True):
            assert f"/davit-{instance(engine)}/" in group

        ports = [engine.docker("port", "web", "80/tcp").splitlines()[0].rpartition(":")[2] for engine in engines]
        assert len(set(ports)) == 3
        for number in range(3):
            eventually(lambda n=number: fetched(netns, f"1900{n}") == f"{n}\n", what=f"page {number}")  # type: ignore[misc]
        # One engine's containers reach its own, the host, and another's published port; not another's address.
        own = engines[0].inspect("container", "web")["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
        assert "0% packet loss" in ping(engines[0], own)
        assert "100% packet loss" in ping(engines[1], own)
        gateway = engines[1].inspect("network", "bridge")["IPAM"]["Config"][0]["Gateway"]
        assert engines[1].docker("run", "--rm", "busybox", "wget", "-qO-", f"http://{gateway}:19000/") == "0"

        # The end of one, and the death of another, are nothing to the third.
        engines[0].stop()
        engines[1].stop(signal.SIGKILL)
        assert fetched(netns, "19002") == "2\n"
        assert engines[2].docker("exec", "web", "cat", "/index.html") == "2"
        engines[0].start()
        assert [engine.docker("inspect", "-f", "{{.State.Running}}", "web") for engine in (engines[0], engines[2])] == [
            "false", "true"
        ]  # fmt: skip
        engines[0].docker("start", "web")
        eventually(lambda: fetched(netns, "19000") == "0\n", what="its page again")
        engines[1].start()
        assert fetched(netns, "19001") == "1\n"


BRIDGE = "com.docker.network.bridge.name"


def fetched(netns: NetworkNamespace, port: str) -> str:
    command = (*netns.enter, "curl", "-s", "--max-time", "5", f"http://127.0.0.1:{port}/")
    return str(run(*command, check=False).stdout)


def ping(engine: Dockerd, address: str) -> str:
    return engine.docker("run", "--rm", "busybox", "ping", "-c1", "-W1", address, check=False)
