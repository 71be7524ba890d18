"""dockerd's command line: what it means, and what is refused by name."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cli import dockerd
from cli.__main__ import main
from cli.common.dockerflags import FLAGS, REFUSED, pools, ulimits
from shared.config import WITHOUT_EFFECT, EngineConfig
from shared.errors import InvalidArgument

# What the reference engine's --help lists, with what newer ones have.
DOCKERS = """
    add-runtime bip bridge cgroup-parent config-file containerd containerd-namespace containerd-plugins-namespace
    data-root debug default-address-pool default-cgroupns-mode default-gateway default-ipc-mode default-runtime
    default-shm-size default-ulimit dns dns-opt dns-search exec-opt exec-root experimental fixed-cidr group host icc
    init insecure-registry ip ip-forward ip-masq ip6tables iptables ipv6 label live-restore log-driver log-format
    log-level log-opt max-concurrent-downloads max-concurrent-uploads mtu pidfile registry-mirror seccomp-profile
    selinux-enabled shutdown-timeout storage-driver storage-opt swarm-default-advertise-addr tls tlscacert tlscert
    tlskey tlsverify userland-proxy userns-remap validate version
"""


@pytest.fixture(autouse=True)
def _no_file_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(dockerd, "DOCKERS_FILE", tmp_path / "none")
    monkeypatch.setenv("DAVIT_CONFIG_FILE", str(tmp_path / "empty"))
    (tmp_path / "empty").write_text("{}")


def test_every_flag_of_dockerds_is_known() -> None:
    known = {name for parameter in dockerd.command.params for name in parameter.opts}
    assert {f"--{name}" for name in DOCKERS.split()} <= known


def test_every_flag_gives_a_setting_that_there_is() -> None:
    settings = set(EngineConfig.model_fields) | {key.replace("-", "_") for key in WITHOUT_EFFECT}
    assert {flag.setting for flag in FLAGS} <= settings


@pytest.mark.parametrize("name", REFUSED.split())
def test_what_would_change_something_is_refused_by_name(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["dockerd", "--validate", f"--{name}=something"]) == 1
    assert f"--{name} is not supported" in capfd.readouterr().err
    assert main(["dockerd", "--validate", f"--{name}=false"]) == 0


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--storage-driver=btrfs"], "storage-driver"),
        (["--exec-opt=native.cgroupdriver=systemd"], "native.cgroupdriver=systemd"),
        (["--default-ulimit=nofile"], "--default-ulimit"),
        (["--default-address-pool=base=10.0.0.0/8"], "--default-address-pool"),
        (["--log-opt=max-size"], "--log-opt"),
        (["--bridge=b", "--bip=10.0.0.1/8"], "mutually exclusive"),
        (["--mtu=wide"], "mtu"),
        (["-H", "fd://"], "fd://"),
        (["--config-file=/no/such/file"], "/no/such/file"),
    ],
)
def test_what_is_wrong_is_named(flags: list[str], words: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["dockerd", "--validate", *flags]) == 1
    assert words in capfd.readouterr().err


@pytest.mark.parametrize(
    "flags",
    [
        ["--iptables=false", "--ip6tables=false", "--ip-masq=false", "--ip-forward=false", "--icc=false"],
        ["-D", "-l", "debug", "-s", "overlay2", "-G", "docker", "-p", "/x.pid", "-b", "none"],
        ["--containerd=/c", "--containerd-namespace=n", "--experimental", "--swarm-default-advertise-addr=eth0"],
        ["--userland-proxy=false", "--live-restore", "--init", "--exec-opt=native.cgroupdriver=cgroupfs"],
        ["--default-ulimit=nofile=1:2", "--log-opt=max-size=1m", "--label=a=b", "--dns=1.1.1.1", "--mtu=1400"],
    ],
)
def test_what_is_right_is_valid(flags: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["dockerd", "--validate", *flags]) == 0
    assert "configuration OK" in capfd.readouterr().err


def test_what_is_said_twice_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "daemon.json"
    file.write_text(json.dumps({"labels": ["a=1"], "runtimes": {"x": {"path": "/x"}}}))
    base = ["dockerd", "--validate", "--config-file", str(file)]
    assert main([*base, "--label=b=2"]) == 1
    assert "specified both as a flag and in the configuration file: labels" in capfd.readouterr().err
    assert main([*base, "--add-runtime=y=/y"]) == 0  # runtimes are added


def test_defaults_are_dockerds_where_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DAVIT_LIVE_RESTORE", raising=False)
    found = dockerd.with_defaults({}, {})
    assert (found["live_restore"], found["hosts"]) == (False, ["unix:///var/run/docker.sock"])
    assert found["pidfile"] == "/var/run/docker.pid"
    assert dockerd.with_defaults({"run_dir": "/r"}, {})["pidfile"] == "/r/docker.pid"
    assert "live_restore" not in dockerd.with_defaults({}, {"live-restore": True})
    monkeypatch.setenv("DAVIT_LIVE_RESTORE", "true")
    assert "live_restore" not in dockerd.with_defaults({}, {})
    monkeypatch.setenv("DOCKER_CERT_PATH", "/certs")
    assert dockerd.with_defaults({"tlsverify": True}, {})["tlscacert"] == "/certs/ca.pem"
    assert "tlscacert" not in dockerd.with_defaults({"tls": True}, {})


def test_addresses_may_be_short(monkeypatch: pytest.MonkeyPatch) -> None:
    assert dockerd.addresses("unix://") == ["unix:///var/run/docker.sock"]
    assert dockerd.addresses("tcp://") == ["tcp://127.0.0.1:2375"]
    assert dockerd.addresses("tcp://:2376") == ["tcp://0.0.0.0:2376"]
    assert dockerd.addresses("127.0.0.1:2375") == ["tcp://127.0.0.1:2375"]
    with pytest.raises(InvalidArgument, match="LISTEN_FDS"):
        dockerd.addresses("fd://")
    monkeypatch.setenv("LISTEN_FDS", "2")
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    assert dockerd.addresses("fd://") == ["fd://3", "fd://4"]


def test_values_with_parts() -> None:
    assert ulimits(["nofile=1:2", "core=-1"]) == {
        "nofile": {"Name": "nofile", "Soft": 1, "Hard": 2},
        "core": {"Name": "core", "Soft": -1, "Hard": -1},
    }
    assert pools(["base=10.0.0.0/8,size=24"]) == [{"base": "10.0.0.0/8", "size": 24}]


def test_a_link_of_that_name_takes_its_flags(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["/usr/local/bin/dockerd", "--version"])
    assert main() == 0
    assert capfd.readouterr().out.startswith("Docker version 0.1.0")
