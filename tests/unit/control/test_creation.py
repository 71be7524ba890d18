"""Merging an image's configuration with the client's; defaults; names, signals, log options."""

from __future__ import annotations

from typing import Any

import pytest

from services.executor.control.creation import record as creation
from services.executor.control.creation.names import checked_name, generated_name, new_id
from shared.config import EngineConfig
from shared.contracts.containers import NodeFacts
from shared.contracts.docker import ContainerConfig, HealthConfig, HostConfig, LogConfig
from shared.contracts.images import ResolvedImage
from shared.docker.signals import parse_signal
from shared.errors import InvalidArgument

IMAGE = ContainerConfig(
    cmd=["serve"],
    entrypoint=["/entry"],
    env=["A=1", "PATH=/bin"],
    user="app",
    working_dir="/srv",
    labels={"a": "image", "b": "image"},
    exposed_ports={"80/tcp": {}},
    volumes={"/data": {}},
    stop_signal="SIGQUIT",
    healthcheck=HealthConfig(test=["CMD", "check"], interval=5, retries=3),
)


def merge(**own: Any) -> ContainerConfig:
    return creation.merge_config(ContainerConfig(**own), IMAGE)


def test_the_image_completes_what_the_client_left_open() -> None:
    merged = merge(env=["A=2"], labels={"a": "own"})
    assert merged.env == ["A=2", "PATH=/bin"]
    assert merged.labels == {"a": "own", "b": "image"}
    assert (merged.user, merged.working_dir, merged.stop_signal) == ("app", "/srv", "SIGQUIT")
    assert creation.command(merged) == ("/entry", ["serve"])


def test_an_own_command_keeps_the_entrypoint() -> None:
    assert creation.command(merge(cmd=["x"])) == ("/entry", ["x"])


def test_an_own_entrypoint_drops_the_images_command() -> None:
    assert creation.command(merge(entrypoint=["/own"])) == ("/own", [])


def test_an_empty_entrypoint_takes_the_images_away() -> None:
    assert creation.command(merge(entrypoint=[""], cmd=["sh"])) == ("sh", [])
    with pytest.raises(InvalidArgument, match="no command specified"):
        creation.command(merge(entrypoint=[""]))


def test_health_checks_are_merged_field_by_field() -> None:
    merged = merge(healthcheck=HealthConfig(interval=9)).healthcheck
    assert merged is not None
    assert (merged.test, merged.interval, merged.retries) == (["CMD", "check"], 9, 3)


def with_defaults(host: HostConfig | None = None, own: ContainerConfig | None = None, **config: Any) -> HostConfig:
    return creation.with_defaults(
        host or HostConfig(), own or ContainerConfig(), EngineConfig(**config), NodeFacts(node="n1")
    )


def test_the_node_says_which_runtime_is_the_default() -> None:
    def runtime(own: str, node: str, **config: Any) -> str:
        facts = NodeFacts(node="n1", default_runtime=node)
        return creation.with_defaults(HostConfig(runtime=own), ContainerConfig(), EngineConfig(**config), facts).runtime

    assert runtime("", "") == "davit"
    assert runtime("", "", default_runtime="runc") == "runc"
    assert runtime("", "crun", default_runtime="runc") == "crun"
    assert runtime("kata", "crun") == "kata"


def test_defaults_as_inspect_shows_them() -> None:
    host = with_defaults(HostConfig(memory=100 << 20))
    assert (host.network_mode, host.ipc_mode, host.shm_size) == ("bridge", "private", 64 << 20)
    assert host.memory_swap == 200 << 20
    assert host.log_config.type == "json-file"
    assert host.cgroupns_mode == "host"
    assert with_defaults(HostConfig(pids_limit=0)).pids_limit is None
    assert with_defaults(own=ContainerConfig(network_disabled=True)).network_mode == "none"


def test_daemon_json_sets_defaults() -> None:
    host = with_defaults(
        log_driver="local",
        log_opts={"max-file": "9"},
        init=True,
        default_shm_size="1m",
        default_ulimits={"nofile": {"Name": "nofile", "Hard": 2, "Soft": 1}},
    )
    assert (host.log_config.type, host.log_config.config) == ("local", {"max-file": "9"})
    assert (host.init, host.shm_size) == (True, 1 << 20)
    assert [(limit.name, limit.soft, limit.hard) for limit in host.ulimits] == [("nofile", 1, 2)]


def log_options(**options: str) -> dict[str, str]:
    config = ContainerConfig(image="app:1", labels={"team": "x", "tier": "y"}, env=["A=1", "B=2"])
    host = HostConfig(log_config=LogConfig(type="json-file", config=options))
    image = ResolvedImage(id="sha256:" + "e" * 64, config=config, layers=[])
    return creation.log_options("c" * 64, "web", image, host, config)


@pytest.mark.parametrize(
    ("given", "options"),
    [
        ({"privileged": True}, ["label=disable"]),
        ({"pid_mode": "host", "security_opt": ["no-new-privileges"]}, ["no-new-privileges", "label=disable"]),
        ({"ipc_mode": "host", "security_opt": ["label=disable"]}, ["label=disable"]),
        ({"network_mode": "host"}, []),
    ],
)
def test_what_reaches_the_host_has_no_labels(given: dict[str, Any], options: list[str]) -> None:
    assert with_defaults(HostConfig(**given)).security_opt == options


def test_logs_rotate_by_default() -> None:
    assert log_options() == {"max-size": "10m", "max-file": "3"}
    assert log_options(**{"max-size": "1k"})["max-size"] == "1k"


def test_lines_carry_what_was_asked_for() -> None:
    options = log_options(**{"labels": "team", "env-regex": "^B", "tag": "{{.ImageName}}/{{.Name}}/{{.ID}}"})
    assert {key: value for key, value in options.items() if key.startswith("attr.")} == {
        "attr.team": "x",
        "attr.B": "2",
        "attr.tag": f"app:1/web/{'c' * 12}",
    }
    with pytest.raises(InvalidArgument, match="invalid log tag"):
        log_options(tag="{{.Nope}}")


@pytest.mark.parametrize(
    ("text", "number"), [("9", 9), ("KILL", 9), ("sigterm", 15), ("RTMIN+3", 37), ("SIGRTMAX", 64)]
)
def test_signals(text: str, number: int) -> None:
    assert parse_signal(text) == number


@pytest.mark.parametrize("text", ["", "0", "65", "FOO", "RTMIN-1", "RTMAX+1", "SIG"])
def test_bad_signals(text: str) -> None:
    with pytest.raises(InvalidArgument, match=f"Invalid signal: {text}".replace("+", "\\+")):
        parse_signal(text)


def test_ids_and_names() -> None:
    assert len(new_id()) == 64
    assert checked_name("/web") == "web"
    assert checked_name(generated_name(0))
    assert generated_name(3)[-1].isdigit()
    for name in ("a b", "a", "-x", "a/b"):
        with pytest.raises(InvalidArgument, match="Invalid container name"):
            checked_name(name)
