"""Instructions of commit, limits of update, limits of prune."""

from __future__ import annotations

from typing import Any

import pytest

from services.executor.control.life.instructions import apply_change
from services.executor.control.life.updating import changed_limits, merged_host_config, possible_limits
from shared.contracts.containers import NodeFacts, UpdateContainer
from shared.contracts.docker import ContainerConfig, HostConfig, Resources, RestartPolicy, Ulimit
from shared.errors import InvalidArgument, Unsupported


def changed(*changes: str, **start: Any) -> ContainerConfig:
    config = ContainerConfig(**start)
    for change in changes:
        apply_change(config, change)
    return config


def test_commands_in_both_forms() -> None:
    assert changed('CMD ["a", "b c"]').cmd == ["a", "b c"]
    assert changed("cmd a b").cmd == ["/bin/sh", "-c", "a b"]
    assert changed("ENTRYPOINT x", shell=["/bin/bash", "-c"]).entrypoint == ["/bin/bash", "-c", "x"]


def test_the_other_instructions() -> None:
    config = changed(
        'ENV A=2 B="x y"', "LABEL k=v", "EXPOSE 80 90-91/udp", "USER app", "VOLUME /a /b", 'VOLUME ["/c"]',
        "WORKDIR /w", "WORKDIR sub", "STOPSIGNAL SIGQUIT", "ONBUILD RUN x",
        "HEALTHCHECK --interval=1m30s --retries=2 CMD curl x",
        env=["A=1", "C=3"],
    )  # fmt: skip
    assert config.env == ["C=3", "A=2", "B=x y"]
    assert config.labels == {"k": "v"}
    assert set(config.exposed_ports) == {"80/tcp", "90/udp", "91/udp"}
    assert (config.user, config.working_dir, config.stop_signal) == ("app", "/w/sub", "SIGQUIT")
    assert set(config.volumes) == {"/a", "/b", "/c"}
    assert config.on_build == ["RUN x"]
    assert config.healthcheck is not None
    assert config.healthcheck.test == ["CMD-SHELL", "curl x"]
    assert (config.healthcheck.interval, config.healthcheck.retries) == (90 * 10**9, 2)


def test_old_form_of_env() -> None:
    assert changed("ENV A some words").env == ["A=some words"]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("RUN x", "run is not a valid change command"),
        ("FOO x", "foo is not a valid change command"),
        ("EXPOSE x", "Invalid containerPort: x"),
        ("ENV A", "ENV must have two arguments"),
        ("STOPSIGNAL FOO", "Invalid signal: FOO"),
        ("STOPSIGNAL ²", "Invalid signal: ²"),
        ("HEALTHCHECK --retries=² CMD true", "Unknown flag: retries"),
        ("HEALTHCHECK --interval=9999999999h CMD true", "invalid duration: 9999999999h"),
        (f"HEALTHCHECK --interval={'9' * 400}h CMD true", "invalid duration: 9"),
        ("HEALTHCHECK FOO", "Unknown type 'FOO' in HEALTHCHECK"),
    ],
)
def test_bad_instructions(change: str, text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        changed(change)


def limits(**fields: Any) -> dict[str, Any]:
    return changed_limits(
        UpdateContainer(ref="x", resources=Resources(**fields), set_fields=sorted(Resources.model_fields))
    )


def test_zero_leaves_a_limit_as_it_is() -> None:
    assert limits(memory=5, pids_limit=0) == {"memory": 5, "pids_limit": 0}
    assert limits() == {}


def test_what_cannot_be_updated_is_refused_by_name() -> None:
    with pytest.raises(Unsupported, match="ulimits of a container cannot be updated"):
        limits(ulimits=[Ulimit(name="nofile", soft=1, hard=1)])


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ({"nano_cpus": 1}, {"cpu_period": 5000}, "CPU Period cannot be updated as NanoCPUs has already been set"),
        ({"cpu_quota": 5000}, {"nano_cpus": 5}, "Nano CPUs cannot be updated as CPU Quota has already been set"),
        ({}, {"memory": 5}, "Minimum memory limit allowed is 6MB"),
        (
            {"memory_swap": 10 << 20},
            {"memory": 20 << 20},
            "Memory limit should be smaller than already set memoryswap limit",
        ),
    ],
)
def test_contradicting_updates(old: dict[str, Any], new: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        merged_host_config(HostConfig(**old), new, None)


def test_an_update_leaves_out_what_the_kernel_does_not_have() -> None:
    bare = NodeFacts(node="n", features={"swap_limit": False, "blkio_weight": False})
    limits = {"memory": 8 << 20, "memory_swap": 16 << 20, "blkio_weight": 100, "pids_limit": 0}
    kept, texts = possible_limits(limits, bare)
    assert kept == {"memory": 8 << 20, "memory_swap": -1, "pids_limit": 0}
    assert [text.partition(" or ")[0] for text in texts] == [
        "Your kernel does not support swap limit capabilities", "Your kernel does not support Block I/O weight"
    ]  # fmt: skip
    assert possible_limits(limits, NodeFacts(node="n")) == (limits, [])
    assert possible_limits({"cpu_shares": 5}, bare) == ({"cpu_shares": 5}, [])


def test_a_policy_replaces_the_old_one() -> None:
    merged = merged_host_config(HostConfig(), {"memory_swap": -1, "memory": 9 << 20}, RestartPolicy(name="always"))
    assert (merged.restart_policy.name, merged.memory) == ("always", 9 << 20)
