"""Docker's JSON: what each version shows, and what null and absent mean."""

from __future__ import annotations

import orjson
import pytest

from services.api.views import config, containers, images, networks, system, volumes
from services.api.views.lines import Line, Lines
from services.executor.runtime.spec import defaults
from shared.contracts import docker
from shared.contracts.cluster import ClusterState
from shared.contracts.containers import Container, ContainerState, ContainerSummary, Exec, Health, NodeFacts, SystemInfo
from shared.contracts.docker import ContainerConfig, EndpointSettings, HostConfig, PortBinding
from shared.contracts.images import BuildCacheEntry, Distribution, Image, Platform, Removal, Removals
from shared.contracts.networks import Ipam, IpamPool, Network
from shared.contracts.volumes import Volume

OLD, NEW = (1, 41), (1, 50)


def a_container(**fields):
    return Container(
        id="c" * 64,
        name="web",
        created_at="2026-01-01T00:00:00Z",
        config=ContainerConfig(image="busybox", cmd=["true"]),
        host_config=HostConfig(memory=7),
        networks={"bridge": EndpointSettings(ip_address="172.17.0.2", endpoint_id="e1", dns_names=["web"])},
        layers=["sha256:aa", "sha256:bb"],
        **fields,
    )


def test_a_container_shows_its_bridge_address_twice():
    shown = containers.container(a_container(), NEW, "/data")
    assert shown["Name"] == "/web"
    assert shown["NetworkSettings"]["IPAddress"] == "172.17.0.2"
    assert shown["NetworkSettings"]["Networks"]["bridge"]["IPAddress"] == "172.17.0.2"
    data = shown["GraphDriver"]["Data"] or {}
    assert data["LowerDir"] == "/data/layers/bb/fs:/data/layers/aa/fs"
    assert "SizeRw" not in shown
    assert containers.container(a_container(size_root_fs_bytes=9), NEW, "/data")["SizeRootFs"] == 9


def test_paths_that_are_hidden_by_default_are_named():
    assert docker.MASKED_PATHS == defaults.MASKED_PATHS
    assert docker.READONLY_PATHS == defaults.READONLY_PATHS
    shown = config.host_config(HostConfig(readonly_paths=[]), NEW)
    assert shown["MaskedPaths"] == list(defaults.MASKED_PATHS)
    assert not shown["ReadonlyPaths"]
    for open_ in (HostConfig(privileged=True), HostConfig(security_opt=["systempaths=unconfined"])):
        assert config.host_config(open_, NEW)["MaskedPaths"] is None


def test_fields_of_newer_versions_are_dropped_for_older_clients():
    new = containers.container(a_container(), NEW, "/")["NetworkSettings"]["Networks"]["bridge"]
    old = containers.container(a_container(), OLD, "/")["NetworkSettings"]["Networks"]["bridge"]
    assert set(new) - set(old) == {"DNSNames", "GwPriority"}
    assert "VirtualSize" in images.image(Image(id="i"), OLD, "/")
    assert "VirtualSize" not in images.image(Image(id="i"), NEW, "/")
    assert "ContainerConfig" in images.image(Image(id="i"), (1, 44), "/")
    assert "ContainerConfig" not in images.image(Image(id="i"), (1, 45), "/")
    assert "EnableIPv4" not in networks.network(Network(id="n", name="x"), OLD)
    assert networks.network(Network(id="n", name="x"), NEW)["EnableIPv4"] is True


def test_health_is_there_only_with_a_check():
    assert "Health" not in containers.state(ContainerState())
    shown = containers.state(ContainerState(health=Health(status="starting")))
    assert shown["Health"] == {"Status": "starting", "FailingStreak": 0, "Log": []}


def test_host_configuration_tells_null_from_empty_as_docker_does():
    shown = config.host_config(HostConfig(), NEW)
    assert (shown["Binds"], shown["CapAdd"], shown["Dns"], shown["PortBindings"]) == (None, None, [], {})
    assert shown["ConsoleSize"] == [0, 0]
    assert "KernelMemory" not in shown
    assert config.host_config(HostConfig(), OLD)["KernelMemory"] == 0
    assert "Mounts" not in shown
    assert "Tmpfs" not in shown
    assert {"UTSMode", "UsernsMode", "ContainerIDFile", "IOMaximumIOps", "BlkioDeviceReadIOps"} <= set(shown)


def test_mounts_show_what_was_set():
    host = HostConfig.model_validate(
        {"Mounts": [{"Type": "bind", "Source": "/a", "Target": "/b", "BindOptions": {"Propagation": "rslave"}}]}
    )
    (mount,) = config.host_config(host, NEW)["Mounts"]
    assert (mount["Type"], mount["Source"], mount["Target"]) == ("bind", "/a", "/b")
    assert mount["BindOptions"]["Propagation"] == "rslave"
    assert "TmpfsOptions" not in mount


def test_optional_configuration_is_absent():
    shown = config.config(ContainerConfig(stop_timeout=0))
    assert shown["StopTimeout"] == 0
    assert not {"Healthcheck", "StopSignal", "Shell", "ExposedPorts"} & set(shown)


def test_ports_in_lists_and_in_inspect():
    bindings = {"80/tcp": [PortBinding(host_ip="0.0.0.0", host_port="8080")], "53/udp": []}
    assert config.ports(bindings) == {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}], "53/udp": None}
    assert config.port_list(bindings) == [
        {"IP": "0.0.0.0", "PublicPort": 8080, "PrivatePort": 80, "Type": "tcp"},
        {"PrivatePort": 53, "Type": "udp"},
    ]


def test_a_line_of_ps():
    line = ContainerSummary(
        id="c1", name="web", image="busybox", image_id="sha256:1", command="true", created_unix=1, status="running",
        status_text="Up 2 seconds", annotations={"a": "b"},
    )  # fmt: skip
    shown = containers.summary(line, NEW)
    assert (shown["Names"], shown["State"], shown["Status"]) == (["/web"], "running", "Up 2 seconds")
    assert shown["HostConfig"] == {"NetworkMode": "", "Annotations": {"a": "b"}}
    assert containers.summary(line, OLD)["HostConfig"] == {"NetworkMode": ""}


def test_a_list_is_written_out_anew_when_a_text_in_it_changes():
    second = 1_000_000_000
    lines = [
        Line.of(
            ContainerSummary(
                id=name, name=name, image="busybox", image_id="sha256:1", command="true", created_unix=1,
                status=status, status_text=code, labels={"a": '"Status":"\x00status\x00"'},
            ),
            NEW,
        )
        for name, status, code in (("up", "running", f"0|{5 * second}|0|"), ("new", "created", "0|0|0|"))
    ]  # fmt: skip
    shown = Lines(lines)
    first = shown.at(7 * second)
    assert [one["Status"] for one in orjson.loads(first)] == ["Up 2 seconds", "Created"]
    assert orjson.loads(first)[0]["Labels"] == {"a": '"Status":"\x00status\x00"'}
    assert shown.at(8 * second - 1) is first
    assert orjson.loads(shown.at(8 * second))[0]["Status"] == "Up 3 seconds"
    assert orjson.loads(shown.at(6 * second))[0]["Status"] == "Up 1 second"  # the clock was set back
    assert Lines([]).at(0) == b"[]\n"


def test_an_exec():
    shown = containers.exec_process(Exec(id="e", container_id="c", cmd=["sh", "-c", "x"], exit_code=3))
    assert shown["ProcessConfig"] == {"tty": False, "entrypoint": "sh", "arguments": ["-c", "x"], "privileged": False}
    assert (shown["ExitCode"], shown["CanRemove"]) == (3, True)


def test_images_without_names():
    assert images.summary(Image(id="i"), OLD)["RepoTags"] == ["<none>:<none>"]
    assert images.summary(Image(id="i"), NEW)["RepoTags"] == []
    removals = Removals(removals=[Removal(untagged="a:1"), Removal(deleted="sha256:2")])
    assert images.removals(removals) == [{"Untagged": "a:1"}, {"Deleted": "sha256:2"}]


def test_image_configuration_loses_what_images_never_had():
    image = Image(id="i", config=ContainerConfig(cmd=["sh"], hostname="h"), last_tag_time_ns=1_500_000_000)
    assert "Hostname" in images.image(image, OLD, "/")["Config"]
    assert images.image(image, NEW, "/")["Config"] == {"Cmd": ["sh"], "Entrypoint": None, "Env": None}
    assert images.image(image, NEW, "/")["Metadata"]["LastTagTime"] == "1970-01-01T00:00:01.5Z"


def test_distribution_and_build_cache():
    platform = Platform(architecture="arm", os="linux", variant="v7")
    shown = images.distribution(Distribution(media_type="m", digest="d", size_bytes=1, platforms=[platform]))
    assert shown["Descriptor"] == {"mediaType": "m", "digest": "d", "size": 1}
    assert shown["Platforms"] == [{"architecture": "arm", "os": "linux", "variant": "v7"}]
    entry = BuildCacheEntry(id="b", parents=["p"])
    assert images.build_cache(entry, OLD)["Parent"] == "p"
    assert images.build_cache(entry, NEW)["Parents"] == ["p"]


def test_volumes_and_networks():
    assert volumes.volume(Volume(name="v"))["Labels"] is None
    used = volumes.volume(Volume(name="v", in_use_by=["a"], size_bytes=5), usage=True)
    assert used["UsageData"] == {"RefCount": 1, "Size": 5}
    network = Network(id="n", name="x", ipam=Ipam(config=[IpamPool(subnet="10.0.0.0/24", gateway="10.0.0.1")]))
    assert networks.network(network, NEW)["IPAM"]["Config"] == [{"Subnet": "10.0.0.0/24", "Gateway": "10.0.0.1"}]


@pytest.mark.parametrize("version", [OLD, NEW])
def test_info_and_version_also_before_a_node_has_reported(version):
    from services.api.call import EngineFacts

    facts = EngineFacts(node="n1", insecure_registries=("reg:5000", "10.0.0.0/8"), registry_mirrors=("https://m/",))
    empty = SystemInfo(containers=1, running=1, paused=0, stopped=0, nodes=[])
    shown = system.info(empty, ClusterState(), 3, facts, version)
    assert (shown["Containers"], shown["Images"], shown["Swarm"]["LocalNodeState"]) == (1, 3, "inactive")
    assert shown["Warnings"] == ["WARNING: no node has reported to the engine yet"]
    assert shown["RegistryConfig"]["InsecureRegistryCIDRs"][-1] == "10.0.0.0/8"
    assert shown["RegistryConfig"]["IndexConfigs"]["reg:5000"]["Secure"] is False
    away = SystemInfo(
        containers=0, running=0, paused=0, stopped=0,
        nodes=[NodeFacts(node="n1", architecture="x86_64", kernel_version="6.1"), NodeFacts(node="n2", ready=False)],
    )  # fmt: skip
    assert system.info(away, ClusterState(), 0, facts, version)["Warnings"] == ["WARNING: node n2 is away"]
    assert system.version(away, facts)["Arch"] == "amd64"
    assert system.version(away, facts)["KernelVersion"] == "6.1"
