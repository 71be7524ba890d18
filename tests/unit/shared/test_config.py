"""Where settings come from, and how wrong ones are named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shared.config import EngineConfig, ProcessSettings, unknown_variables
from shared.errors import InvalidArgument, Unsupported


def write(path: Path, values: object) -> Path:
    path.write_text(json.dumps(values))
    return path


def test_flags_win_over_environment_over_file(tmp_path: Path) -> None:
    file = write(tmp_path / "daemon.json", {"mtu": 1400, "node": "file", "data-root": "/file"})
    config = EngineConfig.load(
        {"DAVIT_NODE": "environment", "DAVIT_DATA_ROOT": "/env"}, file=file, flags={"node": "flag"}
    )
    assert (config.mtu, config.node, config.data_root) == (1400, "flag", Path("/env"))


def test_lists_and_maps_in_the_environment(tmp_path: Path) -> None:
    config = EngineConfig.load(
        {
            "DAVIT_INSECURE_REGISTRIES": "one:5000, two:5000",
            "DAVIT_LOG_OPTS": '{"max-size":"1m"}',
            "DAVIT_DEFAULT_ADDRESS_POOLS": '[{"base":"10.9.0.0/16","size":24}]',
        },
        file=write(tmp_path / "daemon.json", {}),
    )
    assert config.insecure_registries == ["one:5000", "two:5000"]
    assert config.log_opts == {"max-size": "1m"}
    assert config.default_address_pools[0].size == 24


def test_what_a_child_gets_is_what_was_set(tmp_path: Path) -> None:
    flags = {"hosts": ["unix:///a", "tcp://127.0.0.1:1"], "debug": True, "run_dir": Path("/r"), "mtu": 1300}
    file = write(tmp_path / "daemon.json", {})
    config = EngineConfig.load({}, file=file, flags=flags)
    again = EngineConfig.load(config.environment(flags), file=file)
    assert again == config


@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        ({"no-such-key": 1}, InvalidArgument, "unknown configuration key no-such-key"),
        ({"userns-remap": "default"}, Unsupported, "userns-remap"),
        ({"seccomp-profile": "/x"}, Unsupported, "seccomp-profile"),
        ({"mtu": "wide"}, InvalidArgument, "mtu"),
        ({"log-level": "loud"}, InvalidArgument, "log-level"),
        ({"live-restore": "perhaps"}, InvalidArgument, "live-restore"),
        ({"storage-driver": "btrfs"}, Unsupported, "storage-driver: there is no btrfs"),
        ({"bridge": "mine", "bip": "10.0.0.1/24"}, InvalidArgument, "bridge and bip are mutually exclusive"),
        ({"bridge": "a/b"}, InvalidArgument, "bridge: 'a/b' is not an interface name"),
        ({"fixed-cidr": "10.0.0.1/24"}, InvalidArgument, "fixed-cidr: '10.0.0.1/24' is not an IPv4 network"),
        (
            {"bip": "10.0.0.1/24", "fixed-cidr": "10.1.0.0/24"},
            InvalidArgument,
            "fixed-cidr: 10.1.0.0/24 is not a part of the default network 10.0.0.0/24",
        ),
        ({"instance": "A/B"}, InvalidArgument, "instance"),
        ({"default-runtime": "kata"}, InvalidArgument, "specified default runtime 'kata' does not exist"),
        ({"runtimes": {"kata": {"path": ""}}}, InvalidArgument, "runtimes.kata.path"),
        ({"runtimes": {"kata": {"runtimeType": "io.containerd.kata.v2"}}}, InvalidArgument, "runtimes.kata.path"),
        (
            {"runtimes": {"k": {"path": "k", "options": {}}}},
            InvalidArgument,
            "unknown configuration key runtimes.k.opt",
        ),
        ({"runtimes": {"davit": {"path": "/usr/bin/kata"}}}, InvalidArgument, "runtime name 'davit' is reserved"),
        ({"runtimes": {"../x": {"path": "/usr/bin/kata"}}}, InvalidArgument, "is not a name for a runtime"),
        ({"runtimes": ["kata"]}, InvalidArgument, "runtimes"),
        ({"node": "a b"}, InvalidArgument, "node"),
        ({"default-address-pools": [{"base": "10.0.0.0/8"}]}, InvalidArgument, "default-address-pools.0.size"),
        ({"default-address-pools": [{"base": "x", "size": 24}]}, InvalidArgument, "default-address-pools.0: base 'x'"),
        ({"default-address-pools": [{"base": "10.0.0.0/16", "size": 8}]}, InvalidArgument, "size 8 is not between"),
        ({"default-address-pools": [{"base": "fd00::/48", "size": 64}]}, InvalidArgument, "not an IPv4 network"),
        ({"bip": "x"}, InvalidArgument, "bip: 'x' is not an IPv4 address with a prefix"),
        ({"bip": "10.0.0.0/24"}, InvalidArgument, "bip: '10.0.0.0/24' is the address of a network"),
        ({"bip": "10.0.0.1"}, InvalidArgument, "bip: '10.0.0.1' leaves no addresses"),
        ({"dns": ["9.9.9.9", "x"]}, InvalidArgument, "dns.1: 'x' is not an IP address"),
        ({"ip": "any"}, InvalidArgument, "ip: 'any' is not an IP address"),
        ({"log-driver": "syslog"}, InvalidArgument, 'log-driver: .*plugin "syslog" not found'),
        ({"log-opts": {"max-size": "x"}}, InvalidArgument, "log-opts: invalid size: 'x'"),
        ({"log-opts": {"depth": "1"}}, InvalidArgument, "log-opts: unknown log opt 'depth' for json-file log driver"),
        ({"default-shm-size": "big"}, InvalidArgument, "default-shm-size: invalid size: 'big'"),
        ({"default-shm-size": 0}, InvalidArgument, "default-shm-size: 0 is not more than 0 bytes"),
        (
            {"default-ulimits": {"x": {"Name": "x", "Hard": 1, "Soft": 1}}},
            InvalidArgument,
            "default-ulimits.x: invalid ulimit type: x",
        ),
        (
            {"default-ulimits": {"nofile": {"Name": "nofile", "Hard": 1, "Soft": 2}}},
            InvalidArgument,
            "default-ulimits.nofile: soft limit 2 is more than the hard limit 1",
        ),
        ({"registry-mirrors": ["mirror.example"]}, InvalidArgument, "registry-mirrors.0: invalid mirror"),
        ({"registry-mirrors": ["https://u:p@mirror.example"]}, InvalidArgument, "registry-mirrors.0: invalid mirror"),
        ({"insecure-registries": ["http://one:5000"]}, InvalidArgument, "insecure-registries.0: insecure registry"),
        ({"labels": ["fast"]}, InvalidArgument, "labels.0: bad attribute format: fast"),
    ],
)
def test_a_wrong_key_is_named(values: dict[str, object], error: type[Exception], words: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=words):
        EngineConfig.load({}, file=write(tmp_path / "daemon.json", values))


def test_values_of_a_form_of_their_own(tmp_path: Path) -> None:
    values: dict[str, object] = {
        "bip": "10.0.0.1/24",
        "dns": ["9.9.9.9", "2001:db8::53"],
        "ip": "::",
        "log-driver": "local",
        "log-opts": {"max-size": "-1", "labels": "a,b"},
        "default-shm-size": 1048576,
        "default-ulimits": {"nofile": {"Name": "nofile", "Hard": -1, "Soft": -1}},
        "default-address-pools": [{"base": "10.1.0.0/16", "size": 16}, {"base": "10.2.0.0/16", "size": 30}],
        "registry-mirrors": ["https://mirror.example:8443/"],
        "insecure-registries": ["one", "one.example:5000", "[::1]:5000", "10.0.0.0/8"],
        "labels": ["a=", "b=c=d"],
    }
    config = EngineConfig.load({}, file=write(tmp_path / "daemon.json", values))
    assert config.model_dump(mode="json", by_alias=True, include=config.model_fields_set) == values


def test_runtimes_of_flags_join_those_of_the_file(tmp_path: Path) -> None:
    entries = {"runc": {"path": "/usr/sbin/runc", "runtimeArgs": ["--debug"]}, "crun": {"path": "crun"}}
    file = write(tmp_path / "daemon.json", {"runtimes": entries, "default-runtime": "runc"})
    flags = {"runtimes": {"crun": {"path": "/opt/crun"}}}
    config = EngineConfig.load({}, file=file, flags=flags)
    assert {name: entry.path for name, entry in config.runtimes.items()} == {
        "runc": "/usr/sbin/runc",
        "crun": "/opt/crun",
    }
    assert config.runtimes["runc"].runtime_args == ["--debug"]
    assert config.default_runtime == "runc"
    assert EngineConfig.load(config.environment(flags), file=file) == config
    write(file, {"runtimes": {"new": {"path": "new"}}})
    again = EngineConfig.load(config.environment(flags), file=file)
    assert {name: entry.path for name, entry in again.runtimes.items()} == {"new": "new", "crun": "/opt/crun"}
    with pytest.raises(InvalidArgument, match="runtimes: not JSON"):
        EngineConfig.load({"DAVIT_RUNTIMES": "{"}, file=file)


@pytest.mark.parametrize("content", ["{", "[]", "7"])
def test_a_file_that_is_no_object_is_refused(content: str, tmp_path: Path) -> None:
    file = tmp_path / "daemon.json"
    file.write_text(content)
    with pytest.raises(InvalidArgument, match=r"daemon\.json"):
        EngineConfig.load({}, file=file)


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="does not exist"):
        EngineConfig.load({"DAVIT_CONFIG_FILE": str(tmp_path / "none")})


def test_secrets_are_not_shown() -> None:
    config = EngineConfig(database_url="postgresql://davit:hunter2@db/davit", nats_url="nats://u:hunter2@n:4222")
    assert "hunter2" not in str(config.loggable())


def test_process_settings() -> None:
    settings = ProcessSettings.load(
        {"DAVIT_READY_FD": "7", "DAVIT_LISTEN_FDS": "3:unix:///run/a.sock,4:tcp://0.0.0.0:2376"}
    )
    assert settings.ready_fd == 7
    assert settings.listen_fds == {"unix:///run/a.sock": 3, "tcp://0.0.0.0:2376": 4}


@pytest.mark.parametrize("key", ["registry-rights", "registry-auth"])
def test_rights_and_tokens_are_for_users(key: str) -> None:
    value = "token" if key == "registry-auth" else "/rights"
    with pytest.raises(InvalidArgument, match=f"{key}: without registry-users"):
        EngineConfig.checked({key: value})
    EngineConfig.checked({key: value, "registry-users": "/users"})


def test_what_changes_nothing_is_taken_and_said(tmp_path: Path) -> None:
    file = write(tmp_path / "daemon.json", {"containerd": "/run/c.sock", "exec-root": "/run/e"})
    config = EngineConfig.load({}, file=file, flags={"storage_driver": "overlay2"})
    assert [sentence.partition(":")[0] for sentence in config.without_effect] == ["containerd", "storage-driver"]
    assert config.run_dir == Path("/run/e")
    again = EngineConfig.load(config.environment({"storage_driver": "overlay2"}), file=file)
    assert again.without_effect == config.without_effect


def test_names_that_engines_would_have_in_common(tmp_path: Path) -> None:
    plain = EngineConfig()
    marked = EngineConfig(instance="ab12cd")
    assert (plain.default_bridge, plain.firewall_table, plain.default_cgroup) == ("davit0", "davit", "/davit")
    assert (marked.default_bridge, marked.firewall_table) == ("davit-ab12cd", "davit_ab12cd")
    assert marked.default_cgroup == "/davit-ab12cd"
    assert EngineConfig(bridge="none").default_bridge == ""
    assert EngineConfig(bridge="mine", instance="ab12cd").default_bridge == "mine"


def test_variables_of_others_are_left_alone_and_can_be_named(tmp_path: Path) -> None:
    file = write(tmp_path / "daemon.json", {})
    environment = {
        "DAVIT_NODE": "here",
        "DAVIT_PRESS_RELEASE": "of another program",
        "DAVIT_DATA_ROT": "/typo",
        "DAVIT_FAILPOINTS": "x",
        "DAVIT_TEST_CACHE": "/y",
        "DAVIT_EMPTY": "",
    }
    assert EngineConfig.load(environment, file=file).node == "here"
    assert unknown_variables(environment) == ["DAVIT_DATA_ROT", "DAVIT_PRESS_RELEASE"]


@pytest.mark.parametrize(
    ("variable", "value", "error"),
    [("DAVIT_MTU", "wide", InvalidArgument), ("DAVIT_USERNS_REMAP", "default", Unsupported)],
)
def test_a_wrong_variable_is_named_as_what_it_is(
    tmp_path: Path, variable: str, value: str, error: type[Exception]
) -> None:
    file = write(tmp_path / "daemon.json", {})
    with pytest.raises(error, match=f"from {variable} in the environment"):
        EngineConfig.load({variable: value}, file=file)
    # what a flag overrides is not the variable's fault
    if variable == "DAVIT_MTU":
        with pytest.raises(error) as refused:
            EngineConfig.load({variable: "1400"}, file=file, flags={"mtu": "wider"})
        assert "environment" not in str(refused.value)
