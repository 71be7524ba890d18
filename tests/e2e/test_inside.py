"""What programs in a container find, and what the engine says that they changed."""

from __future__ import annotations

import io
import tarfile

import pytest

from tests.lab.engine import Engine, eventually

pytestmark = pytest.mark.root


def test_the_files_that_tell_a_container(engine: Engine) -> None:
    text = engine.docker("run", "--rm", "busybox", "sh", "-c", "ls /.dockerenv; readlink /etc/mtab").stdout
    assert text == "/.dockerenv\n/proc/mounts\n"


def test_the_primary_group_is_among_the_groups(engine: Engine) -> None:
    """Programs that give up their primary group must not thereby lose a "deny" for it (CVE-2022-36109)."""
    engine.docker("run", "-d", "--name", "box", "busybox", "sleep", "1000")
    for flags, groups in (([], "0"), (["-u", "65534"], "65534"), (["-u", "0:7"], "7")):
        assert engine.docker("run", "--rm", *flags, "busybox", "grep", "Groups", "/proc/self/status").stdout.split()[
            1:
        ] == [groups]
        assert engine.docker("exec", *flags, "box", "grep", "Groups", "/proc/self/status").stdout.split()[1:] == [
            groups
        ]


def test_changes_are_those_of_the_container(engine: Engine) -> None:
    """In an image that has nothing but a program; so also in what a commit of it keeps."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        tar.add("/bin/busybox", "busybox")
    engine.docker_popen("import", "-", "bare", stdin=-1).communicate(data.getvalue(), 30)
    flags = ["-v", "/tmp:/deep/down", "-v", "vol:/vol", "--tmpfs", "/fleeting"]
    command = ["/busybox", "sh", "-c", "echo > /etc/own; /busybox mkdir /made"]
    engine.docker("run", "--name", "changing", *flags, "bare", *command)
    assert sorted(engine.docker("diff", "changing").stdout.splitlines()) == [
        "A /deep",
        "A /deep/down",
        "A /etc/own",
        "A /fleeting",
        "A /made",
        "A /vol",
        "C /etc",
    ]
    for image, command in (("bare", ["/busybox"]), ("busybox", ["true"])):
        engine.docker("run", "--name", f"idle-{image}", image, *command)
        assert engine.docker("diff", f"idle-{image}").stdout == ""
    engine.docker("rm", "changing")
    engine.docker("volume", "rm", "vol")


def inside(engine: Engine, name: str, *command: str) -> str:
    return engine.docker("exec", name, *command).stdout


def test_names_and_addresses_follow_the_networks(engine: Engine) -> None:
    """A container of the default bridge finds names once it is on a network that has some; what it wrote stays."""
    engine.docker("network", "create", "--subnet", "10.81.0.0/24", "named")
    engine.docker("run", "-d", "--name", "there", "--network", "named", "busybox", "sleep", "1000")
    engine.docker("run", "-d", "--name", "late", "busybox", "sleep", "1000")
    try:
        generated = inside(engine, "late", "cat", "/etc/resolv.conf")
        assert "127.0.0.11" not in generated
        inside(engine, "late", "sh", "-c", "echo 10.1.1.1 mine >> /etc/hosts")
        engine.docker("network", "connect", "--ip", "10.81.0.77", "--link", "there:friend", "named", "late")
        assert "nameserver 127.0.0.11" in inside(engine, "late", "cat", "/etc/resolv.conf")
        hosts = inside(engine, "late", "cat", "/etc/hosts")
        assert "10.81.0.77\t" in hosts
        assert "10.1.1.1 mine" in hosts
        assert "1 packets received" in inside(engine, "late", "ping", "-c", "1", "there")
        assert "1 packets received" in inside(engine, "late", "ping", "-c", "1", "friend")
        engine.docker("network", "disconnect", "named", "late")
        assert inside(engine, "late", "cat", "/etc/resolv.conf") == generated
        hosts = inside(engine, "late", "cat", "/etc/hosts")
        assert "10.81.0.77" not in hosts
        assert "10.1.1.1 mine" in hosts
        inside(engine, "late", "sh", "-c", "echo nameserver 10.9.9.9 > /etc/resolv.conf")
        engine.docker("network", "connect", "named", "late")
        assert inside(engine, "late", "cat", "/etc/resolv.conf") == "nameserver 10.9.9.9\n"
    finally:
        engine.docker("rm", "-f", "there", "late")
        engine.docker("network", "rm", "named")


def test_lines_of_hosts(engine: Engine) -> None:
    last = ["sh", "-c", "tail -n 1 /etc/hosts | cut -f 2"]
    assert engine.docker("run", "--rm", "-h", "one.two.three", "busybox", *last).stdout == "one.two.three one\n"
    named = ["-h", "one", "--domainname", "two.three"]
    assert engine.docker("run", "--rm", *named, "busybox", *last).stdout == "one.two.three one\n"
    target = engine.docker("run", "-d", "--name", "target", "busybox", "sleep", "1000").stdout.strip()
    command = ["sh", "-c", "grep alias /etc/hosts | cut -f 2"]
    linked = engine.docker("run", "--rm", "--link", "target:alias", "busybox", *command).stdout
    assert linked == f"alias {target[:12]} target\n"


@pytest.mark.parametrize("flags", [["-v", "/etc"], ["--tmpfs", "/etc"], ["--mount", "type=tmpfs,target=/etc"]])
def test_generated_files_lie_over_a_mount_of_etc(engine: Engine, flags: list[str]) -> None:
    command = ["sh", "-c", "grep -c . /etc/hosts /etc/hostname /etc/resolv.conf | grep -cv :0"]
    assert engine.docker("run", "--rm", *flags, "busybox", *command).stdout == "3\n"


def test_a_mount_can_only_propagate_where_the_hosts_does(engine: Engine) -> None:
    """Below /proc, which is mounted privately or not at all shared in no test environment."""
    for mode, kind in (("shared", "shared"), ("rslave", "shared or slave")):
        result = engine.docker("run", "--rm", "-v", f"/proc/sys:/x:{mode}", "busybox", "true", check=False)
        if result.returncode:
            assert f"path /proc/sys is mounted on /proc but it is not a {kind} mount" in result.stderr
        else:
            assert any(
                " /proc " in line and "shared:" in line
                for line in open("/proc/self/mountinfo")  # noqa: SIM115
            )


def test_a_network_from_a_configuration(engine: Engine) -> None:
    engine.docker("network", "create", "--config-only", "--subnet", "10.82.0.0/24", "plan")
    engine.docker("network", "create", "--config-only", "--subnet", "10.82.0.0/24", "plan2")
    engine.docker("network", "create", "--config-from", "plan", "real")
    try:
        subnet = engine.docker("network", "inspect", "-f", "{{(index .IPAM.Config 0).Subnet}}", "real").stdout
        assert subnet == "10.82.0.0/24\n"
        assert "10.82.0.2" in engine.docker("run", "--rm", "--network", "real", "busybox", "ip", "addr").stdout
    finally:
        engine.docker("network", "rm", "real", "plan", "plan2")


def test_a_volume_that_binds_a_missing_directory(engine: Engine) -> None:
    engine.docker("volume", "create", "-o", "type=none", "-o", "o=bind", "-o", "device=/no/such/directory", "bound")
    try:
        result = engine.docker("run", "--rm", "-v", "bound:/x", "busybox", "true", check=False)
        assert result.returncode != 0
        assert "failed to mount local volume: mount /no/such/directory:" in result.stderr
    finally:
        engine.docker("volume", "rm", "-f", "bound")


def test_small_things_that_clients_show(engine: Engine) -> None:
    engine.docker("run", "--name", "told", "--log-opt", "labels=l", "-l", "l=1", "busybox", "echo", "x")
    engine.docker("run", "-d", "--name", "plain", "-p", "127.0.0.1:18071:80", "busybox", "sh", "-c", "echo x; sleep 99")
    assert engine.docker("logs", "--details", "told").stdout == "l=1 x\n"
    eventually(lambda: engine.docker("logs", "plain").stdout, what="the output")
    assert engine.docker("logs", "--details", "plain").stdout == " x\n"
    assert engine.docker("ps", "-q", "--filter", "publish=80").stdout == ""
    assert engine.docker("ps", "--filter", "publish=18071", "--format", "{{.Names}}").stdout == "plain\n"
    assert engine.docker("ps", "-as", "--filter", "name=told", "--format", "{{.Size}}").stdout.startswith("0B (virtual")
    result = engine.docker("cp", "/etc/passwd", "plain:/new/place", check=False)
    assert "Could not find the file /new in container plain" in result.stderr
