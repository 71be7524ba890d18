"""What is refused at creation, with Docker's words and the field's name."""

from __future__ import annotations

from typing import Any

import pytest

from services.executor.control.creation.limits import discard
from services.executor.control.creation.subject import Subject
from services.executor.control.creation.validate import check, warnings
from shared.contracts.containers import NodeFacts
from shared.contracts.docker import ContainerConfig, HostConfig
from shared.errors import InvalidArgument

NODE = NodeFacts(node="n1", cpus=2)


def subject(body: dict[str, Any]) -> Subject:
    host = HostConfig.model_validate(body.pop("HostConfig", {}))
    return Subject(ContainerConfig.model_validate(body), host, NODE, frozenset({"davit", "runc"}))


def host(**fields: Any) -> dict[str, Any]:
    return {"HostConfig": fields}


REFUSED: list[tuple[dict[str, Any], str]] = [
    (host(Memory=1000), "Minimum memory limit allowed is 6MB"),
    (
        host(Memory=100000000, MemorySwap=10000000),
        "Minimum memoryswap limit should be larger than memory limit, see usage",
    ),
    (host(MemorySwap=10000000), "You should always set the Memory limit when using Memoryswap limit, see usage"),
    (host(MemorySwappiness=200), "Invalid value: 200, valid memory swappiness range is 0-100"),
    (host(MemoryReservation=100), "Minimum memory reservation allowed is 6MB"),
    (host(OomScoreAdj=5000), "Invalid value 5000, range for oom score adj is [-1000, 1000]"),
    (host(ConsoleSize=[70000, 80]), "invalid terminal size: 70000 is not from 0 to 65535 (HostConfig.ConsoleSize)"),
    (host(ConsoleSize=[24]), "invalid HostConfig.ConsoleSize: it is [height, width]"),
    (host(ShmSize=-1), "SHM size can not be less than 0"),
    (host(NanoCpus=90000000000), "Range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available"),
    (host(NanoCpus=10**9, CpuPeriod=1000), "Conflicting options: Nano CPUs and CPU Period cannot both be set"),
    (host(CpuPeriod=5), "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)"),
    (host(CpuQuota=5), "CPU cfs quota can not be less than 1ms (i.e. 1000)"),
    (host(CpusetCpus="foo"), "Invalid value foo for cpuset cpus: invalid format: foo"),
    (host(CpusetCpus="0-7"), "Requested CPUs are not available - requested 0-7, available: 0-1"),
    (host(BlkioWeight=5), "Range of blkio weight is from 10 to 1000"),
    (
        host(AutoRemove=True, RestartPolicy={"Name": "always"}),
        "can't create 'AutoRemove' container with restart policy",
    ),
    (
        host(RestartPolicy={"Name": "sometimes"}),
        "invalid restart policy: unknown policy 'sometimes'; use one of 'no', 'always', 'on-failure', or "
        "'unless-stopped'",
    ),
    (
        host(RestartPolicy={"Name": "always", "MaximumRetryCount": 3}),
        "invalid restart policy: maximum retry count can only be used with 'on-failure'",
    ),
    (host(NetworkMode="container:"), "Invalid network mode: invalid container format container:<name|id>"),
    (host(NetworkMode="container:x") | {"Hostname": "h"}, "conflicting options: hostname and the network mode"),
    (
        host(NetworkMode="container:x", PortBindings={"80/tcp": [{}]}),
        "conflicting options: port publishing and the container type network mode",
    ),
    (host(CgroupnsMode="foo"), "invalid cgroup namespace mode: foo"),
    (host(PortBindings={"80x/tcp": [{}]}), 'invalid port specification: "80x/tcp"'),
    (host(PortBindings={"80/tcp": [{"HostPort": "abc"}]}), 'invalid port specification: "abc"'),
    (host(PortBindings={"80/tcp": [{"HostPort": "99999"}]}), 'invalid port specification: "99999"'),
    (host(PortBindings={"80/tcp": [{"HostPort": "90-80"}]}), 'invalid port specification: "90-80"'),
    (host(LogConfig={"Type": "foo"}), 'error looking up logging plugin foo: plugin "foo" not found'),
    (host(LogConfig={"Type": "json-file", "Config": {"foo": "1"}}), "unknown log opt 'foo' for json-file log driver"),
    (host(LogConfig={"Type": "json-file", "Config": {"max-size": "xx"}}), "invalid size: 'xx'"),
    (host(LogConfig={"Type": "json-file", "Config": {"max-file": "²"}}), "max-file cannot be less than 1"),
    (host(CapAdd=["NOPE"]), 'invalid CapAdd: unknown capability: "CAP_NOPE"'),
    (host(SecurityOpt=["foo"]), 'invalid --security-opt 1: "foo"'),
    (host(SecurityOpt=["no-new-privileges:maybe"]), 'invalid --security-opt 1: "no-new-privileges:maybe"'),
    (host(ExtraHosts=["foo"]), 'bad format for add-host: "foo"'),
    (host(ExtraHosts=["foo:bar"]), 'invalid IP address in add-host: "bar"'),
    (host(Ulimits=[{"Name": "foo", "Soft": 1, "Hard": 1}]), "invalid ulimit type: foo"),
    (
        host(Ulimits=[{"Name": "nofile", "Soft": 10, "Hard": 1}]),
        "ulimit soft limit must be less than or equal to hard limit: 10 > 1",
    ),
    (
        host(Ulimits=[{"Name": "nofile", "Soft": -2, "Hard": -2}]),
        "invalid ulimit nofile=-2:-2: -1 is the least, for no limit",
    ),
    (host(SecurityOpt=["systempaths=foo"]), 'invalid --security-opt 1: "systempaths=foo"'),
    (host(SecurityOpt=["seccomp"]), 'invalid --security-opt 1: "seccomp"'),
    (host(Sysctls={"kernel.foo": "1"}), 'sysctl "kernel.foo" is not in a separate kernel namespace'),
    (
        host(Sysctls={"net.core.somaxconn": "1"}, NetworkMode="host"),
        'sysctl "net.core.somaxconn" is not allowed without a network namespace of the container\'s own',
    ),
    (
        host(Sysctls={"kernel.msgmax": "1"}, IpcMode="container:x"),
        'sysctl "kernel.msgmax" is not allowed without a ipc namespace of the container\'s own',
    ),
    (host(BlkioWeightDevice=[{"Path": "/dev/vda", "Weight": 5}]), "invalid weight for device: /dev/vda:5"),
    (host(BlkioDeviceReadBps=[{"Path": "/dev/vda", "Rate": -5}]), "invalid rate for device: /dev/vda:-5"),
    (
        host(BlkioDeviceWriteIOps=[{"Path": "", "Rate": 5}]),
        "invalid device path '' in BlkioDeviceWriteIOps: an absolute path is needed",
    ),
    (host(Devices=[{"PathOnHost": "/dev/zero", "CgroupPermissions": "xyz"}]), "invalid device mode: xyz"),
    (
        host(Devices=[{"PathOnHost": "/dev/zero", "PathInContainer": "rel"}]),
        "invalid device path in the container: rel is not absolute",
    ),
    (host(IpcMode="foo"), "invalid IPC mode: foo"),
    (host(IpcMode="container:"), "invalid IPC mode: container:"),
    (host(PidMode="container:"), "invalid PID mode: container:"),
    (host(UTSMode="container:x"), "invalid UTS mode: container:x"),
    (host(UTSMode="host") | {"Hostname": "h"}, "conflicting options: hostname and the UTS mode"),
    (host(Tmpfs={"/": ""}), "invalid specification: destination can't be '/'"),
    (host(Tmpfs={"/x": "rw,badopt"}), 'invalid tmpfs option ["badopt"]'),
    (host(Tmpfs={"/x": "colour=red"}), 'invalid tmpfs option ["colour=red"]'),
    (host(Tmpfs={"rel": ""}), "invalid mount path: 'rel' mount path must be absolute"),
    (host(Runtime="foo"), "unknown or invalid runtime name: foo"),
    ({"Env": ["=x"]}, "invalid environment variable: =x"),
    ({"Env": ["A=b\0c"]}, "invalid Env: it has a NUL character inside"),
    ({"Cmd": ["echo", "a\0"]}, "invalid Cmd: it has a NUL character inside"),
    ({"WorkingDir": "rel"}, "the working directory 'rel' is invalid, it needs to be an absolute path"),
    ({"StopSignal": "FOO"}, "Invalid signal: FOO"),
    ({"Hostname": "a b"}, "invalid hostname format: a b"),
    ({"Healthcheck": {"Test": ["CMD", "x"], "Interval": 1000}}, "Interval in Healthcheck cannot be less than 1ms"),
    ({"Healthcheck": {"Test": ["CMD", "x"], "StartPeriod": -5}}, "StartPeriod in Healthcheck cannot be less than 1ms"),
    ({"Healthcheck": {"Test": ["CMD", "x"], "Retries": -1}}, "Retries in Healthcheck cannot be negative"),
]


@pytest.mark.parametrize(("body", "text"), REFUSED, ids=lambda value: str(value)[:60])
def test_refused_as_docker_does(body: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check(subject(dict(body)))
    assert caught.value.message == text


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("Isolation", "hyperv"), ("StorageOpt", {"size": "1G"}), ("CpuCount", 3), ("DeviceRequests", [{"Count": 1}]),
        ("SecurityOpt", ["apparmor=mine"]), ("SecurityOpt", ["label=type:mine"]),
        ("KernelMemory", 10), ("VolumeDriver", "nfs"), ("IOMaximumIOps", 1),
    ],
)  # fmt: skip
def test_what_is_not_honoured_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check(subject(host(**{field: value})))
    assert field in caught.value.message
    assert caught.value.detail["field"] == f"HostConfig.{field}"


@pytest.mark.parametrize(
    "body",
    [
        {}, host(NetworkMode="nope"), host(CapAdd=["ALL"], CapDrop=["cap_net_raw"]), host(PidsLimit=-5),
        host(ExtraHosts=["a:host-gateway", "b:[::1]", "c=1.2.3.4"]), host(SecurityOpt=["seccomp=unconfined"]),
        host(SecurityOpt=["no-new-privileges"]), host(LogConfig={"Type": "none", "Config": {"max-size": "1m"}}),
        host(Tmpfs={"/x": "size=1m,mode=1777,noexec,uid=3"}), host(IpcMode="none"), host(IpcMode="container:x"),
        host(SecurityOpt=["apparmor=unconfined", "label:disable", "systempaths=unconfined"]),
        host(Sysctls={"net.core.somaxconn": "1", "kernel.shmmax": "1", "fs.mqueue.msg_max": "9"}),
        host(Isolation="default"), host(CpusetCpus="0,1"), {"Hostname": "under_score"}, host(IpcMode="shareable"),
        host(Ulimits=[{"Name": "nofile", "Soft": -1, "Hard": -1}]), host(Memory=6 << 20, MemorySwap=-1),
    ],
)  # fmt: skip
def test_accepted(body: dict[str, Any]) -> None:
    check(subject(dict(body)))


def test_limits_that_the_kernel_does_not_have_are_discarded_with_a_warning() -> None:
    bare = NODE.model_copy(
        update={"features": dict.fromkeys(
            ("swap_limit", "memory_swappiness", "oom_kill_disable", "blkio_weight", "blkio_weight_device"), False
        )}
    )  # fmt: skip
    fields = {
        "Memory": 8 << 20, "MemorySwap": 16 << 20, "MemorySwappiness": 10, "OomKillDisable": True, "BlkioWeight": 100,
        "BlkioWeightDevice": [{"Path": "/dev/vda", "Weight": 100}],
    }  # fmt: skip
    given = HostConfig.model_validate(fields)
    found = discard(given, bare)
    assert [text.split(".")[0] for text in found] == [
        "Your kernel does not support swap limit capabilities or the cgroup is not mounted",
        "Your kernel does not support memory swappiness capabilities or the cgroup is not mounted",
        "Your kernel does not support OomKillDisable",
        "Your kernel does not support Block I/O weight or the cgroup is not mounted",
        "Your kernel does not support Block I/O weight_device or the cgroup is not mounted",
    ]
    assert (given.memory_swap, given.memory_swappiness, given.oom_kill_disable) == (-1, None, None)
    assert (given.blkio_weight, given.blkio_weight_device) == (0, [])
    kept = HostConfig.model_validate(fields)
    assert discard(kept, NODE) == []
    assert kept == HostConfig.model_validate(fields)


def test_warnings() -> None:
    assert warnings(subject(host(OomKillDisable=True)))[0].startswith("OOM killer is disabled for the container")
    [text] = warnings(subject(host(NetworkMode="host", PortBindings={"80/tcp": [{"HostPort": "80"}]})))
    assert text == "Published ports are discarded when using host network mode"
    assert warnings(subject({})) == []
