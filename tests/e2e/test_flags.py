"""Flags of `docker run` and `docker create` that no other test goes through, with the real CLI."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.engine import Engine, eventually

pytestmark = pytest.mark.root


@pytest.fixture(scope="module", autouse=True)
def _parent_group_goes() -> Iterator[None]:
    """A parent group that a user names is the user's to remove."""
    yield
    for directory in Path("/sys/fs/cgroup").glob("*/davit-flags"):
        directory.rmdir()
    if (alone := Path("/sys/fs/cgroup/davit-flags")).is_dir():
        alone.rmdir()


def run(engine: Engine, *arguments: str) -> str:
    return engine.docker("run", "--rm", *arguments).stdout.strip()


WORKS = [
    (["--annotation", "a=b"], ["true"], ""),
    (["--cgroup-parent", "/davit-flags"], ["sh", "-c", "grep -c . /proc/self/cgroup > /dev/null && echo in"], "in"),
    (["--mac-address", "02:42:ac:11:00:77"], ["cat", "/sys/class/net/eth0/address"], "02:42:ac:11:00:77"),
    (["--sysctl", "net.ipv4.ip_forward=0"], ["cat", "/proc/sys/net/ipv4/ip_forward"], "0"),
    (["--sysctl", "net.core.somaxconn=1234"], ["cat", "/proc/sys/net/core/somaxconn"], "1234"),
    (["--userns", "host"], ["id", "-u"], "0"),
    (["--domainname", "port.example"], ["cat", "/proc/sys/kernel/domainname"], "port.example"),
    (["--group-add", "1234"], ["id", "-G"], "0 1234"),
    (["--oom-score-adj", "321"], ["cat", "/proc/self/oom_score_adj"], "321"),
    (["--shm-size", "8m"], ["sh", "-c", "df -k /dev/shm | awk 'END{print $2}'"], "8192"),
    (["--ulimit", "nofile=77:99"], ["sh", "-c", "ulimit -Sn; ulimit -Hn"], "77\n99"),
    (["--add-host", "far:10.9.8.7"], ["sh", "-c", "grep far /etc/hosts | cut -f1"], "10.9.8.7"),
    (["--dns", "10.1.1.1", "--dns-search", "x.example", "--dns-option", "ndots:3"],
     ["sh", "-c", "grep -vE '^#|^$' /etc/resolv.conf"], "nameserver 10.1.1.1\nsearch x.example\noptions ndots:3"),
    (["--device", "/dev/zero:/dev/nought:r"], ["sh", "-c", "head -c 3 /dev/nought | wc -c"], "3"),
    (["--privileged", "--device", "/dev/zero:/dev/nought"], ["sh", "-c", "head -c 3 /dev/nought | wc -c"], "3"),
    (["--security-opt", "apparmor=unconfined", "--security-opt", "label=disable"], ["true"], ""),
    (["--ipc", "none"], ["sh", "-c", "ls -d /dev/shm 2>/dev/null || echo none"], "none"),
    (["--ipc", "host"], ["stat", "-f", "-c", "%T", "/dev/shm"], "tmpfs"),
    (["--stop-signal", "SIGINT", "--stop-timeout", "3"], ["true"], ""),
    (["--cpu-shares", "512", "--cpuset-cpus", "0"], ["grep", "-o", "Cpus_allowed_list.*", "/proc/self/status"],
     "Cpus_allowed_list:\t0"),
]  # fmt: skip


@pytest.mark.parametrize(("flags", "command", "output"), WORKS, ids=lambda value: " ".join(value)[:40])
def test_works(engine: Engine, flags: list[str], command: list[str], output: str) -> None:
    assert run(engine, *flags, "busybox", *command) == output


REFUSED = [
    (["--gpus", "all"], "DeviceRequests"),
    (["--ipc", "container:x"], "No such container: x"),
    (["--ipc", "some"], "invalid IPC mode: some"),
    (["--sysctl", "net.core.somaxconn=1", "--network", "host"], 'sysctl "net.core.somaxconn"'),
    (["--tmpfs", "/x:badopt"], 'invalid tmpfs option ["badopt"]'),
    (["--security-opt", "systempaths=some"], "invalid --security-opt"),
    (["--privileged", "--device", "/dev/nosuch:/dev/other"], 'adding custom device "/dev/nosuch": no such file'),
    (["--uts", "host", "--hostname", "x"], "conflicting options: hostname and the UTS mode"),
    (["--storage-opt", "size=1G"], "StorageOpt"),
    (["--isolation", "hyperv"], "Isolation"),
    (["--volume-driver", "nosuch"], "VolumeDriver"),
    (["--runtime", "nosuch"], "unknown or invalid runtime name: nosuch"),
    (["--security-opt", "apparmor=mine"], "AppArmor profiles are not applied"),
    (["--security-opt", "label=type:mine"], "SELinux labels are not applied"),
    (["--log-driver", "syslog"], "syslog"),
    (["--mount", "type=image,source=nosuch,target=/i"], "No such image: nosuch:latest"),
    (["--link-local-ip", "169.254.1.2"], "link-local"),
]


@pytest.mark.parametrize(
    ("flags", "text"), REFUSED, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_refused(engine: Engine, flags: list[str], text: str) -> None:
    result = engine.docker("run", "--rm", *flags, "busybox", "true", check=False)
    # The client reads 127 from this text, whatever was not found.
    assert result.returncode == (127 if "no such file" in text else 125)
    assert text in result.stderr


def test_namespaces_of_the_host_and_of_a_container(engine: Engine) -> None:
    engine.docker("run", "-d", "--name", "neighbour", "busybox", "sleep", "4321")
    assert "sleep 4321" in run(engine, "--pid", "container:neighbour", "busybox", "ps")
    assert "sleep 4321" in run(engine, "--pid", "host", "busybox", "ps")
    here = engine.inside("hostname").stdout.strip()
    assert run(engine, "--uts", "host", "busybox", "hostname") == here


def test_an_image_as_a_mount(engine: Engine) -> None:
    """Read-only, whole or in part; while a container has it mounted, its image stays."""
    engine.docker("build", "-q", "-t", "carried", "-", stdin="FROM busybox\nRUN mkdir /data && echo x > /data/one\n")
    whole = ["--mount", "type=image,source=carried,target=/i"]
    assert run(engine, *whole, "busybox", "cat", "/i/data/one") == "x"
    refused = engine.docker("run", "--rm", *whole, "busybox", "touch", "/i/data/two", check=False)
    assert "Read-only file system" in refused.stderr
    part = ["--mount", "type=image,source=busybox,target=/i,image-subpath=etc"]
    assert run(engine, *part, "busybox", "sh", "-c", "ls /i | grep -c passwd") == "1"
    engine.docker("create", "--name", "holding", *whole, "busybox", "cat", "/i/data/one")
    refused = engine.docker("rmi", "carried", check=False)
    assert refused.returncode == 1
    assert "conflict" in refused.stderr
    assert engine.docker("start", "-a", "holding").stdout == "x\n"
    engine.docker("rm", "holding")
    engine.docker("rmi", "carried")


def test_the_file_for_the_id(engine: Engine, tmp_path: Path) -> None:
    run(engine, "--name", "noted", "--cidfile", str(tmp_path / "id"), "busybox", "true")
    assert len((tmp_path / "id").read_text()) == 64


def test_ipc_of_a_container_that_shares_it(engine: Engine) -> None:
    """The namespace and /dev/shm are one; a container that does not share, or does not run, cannot be joined."""
    engine.docker("run", "-d", "--name", "donor", "--ipc", "shareable", "--shm-size", "3m", "busybox", "sleep", "1000")
    look = ["sh", "-c", "readlink /proc/self/ns/ipc; df -k /dev/shm | awk 'END{print $2}'; cat /dev/shm/word; echo"]
    engine.docker("exec", "donor", "sh", "-c", "printf there > /dev/shm/word")
    here = engine.docker("exec", "donor", *look).stdout.strip()
    assert here.endswith("3072\nthere")
    assert run(engine, "--ipc", "container:donor", "busybox", *look) == here
    assert run(engine, "--ipc", "container:donor", "--tmpfs", "/dev/shm", "busybox", "ls", "/dev/shm") == ""
    engine.docker("create", "--name", "joined", "--ipc", "container:donor", "busybox", "true")
    engine.docker("rm", "-f", "donor")
    refused = engine.docker("start", "joined", check=False)
    assert "No such container" in refused.stderr or "is not running" in refused.stderr
    engine.docker("run", "-d", "--name", "own", "busybox", "sleep", "1000")
    refused = engine.docker("run", "--rm", "--ipc", "container:own", "busybox", "true", check=False)
    assert refused.returncode == 125
    assert "non-shareable IPC (hint: use IpcMode:shareable for the donor container)" in refused.stderr


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (["network", "create", "-d", "ipvlan", "n"], "ipvlan"),
        (["network", "create", "-d", "overlay", "n"], "overlay"),
        (["network", "create", "-d", "host", "n"], "only one instance"),
        (["volume", "create", "-d", "nosuch", "vol1"], "nosuch"),
        (["volume", "create", "-o", "size=1G", "vol1"], "quota"),
        (["swarm", "join", "--token", "SWMTKN-1-x-y", "127.0.0.1:2377"], "davit cluster join"),
        (["plugin", "install", "nosuch"], "plugins are not supported"),
    ],
)
def test_other_refusals(engine: Engine, command: list[str], text: str) -> None:
    result = engine.docker(*command, check=False)
    assert result.returncode == 1
    assert text in result.stderr


def test_running_out_of_memory_is_told_while_the_container_lives(engine: Engine) -> None:
    command = "tail /dev/zero; echo survived; sleep 1000"
    engine.docker("run", "-d", "--name", "tight", "-m", "16m", "--memory-swap", "16m", "busybox", "sh", "-c", command)
    eventually(lambda: "survived" in engine.docker("logs", "tight").stdout, 30, "the kernel's kill")

    def told() -> bool:
        arguments = (
            "events",
            "--since",
            "60s",
            "--until",
            "0s",
            "--filter",
            "container=tight",
            "--filter",
            "event=oom",
        )
        return bool(engine.docker(*arguments).stdout)

    eventually(told, 10, "the event oom")
    assert engine.docker("inspect", "-f", "{{.State.Status}}", "tight").stdout.strip() == "running"
