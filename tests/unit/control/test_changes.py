"""Limits of update."""

from __future__ import annotations

from typing import Any

import pytest

from services.executor.control.life.updating import changed_limits, merged_host_config, possible_limits
from shared.contracts.containers import NodeFacts, UpdateContainer
from shared.contracts.docker import HostConfig, Resources, RestartPolicy, Ulimit
from shared.errors import InvalidArgument, Unsupported


def limits(**fields: Any) -> dict[str, Any]:
    return changed_limits(
        UpdateContainer(ref="x", resources=Resources(**fields), set_fields=sorted(Resources.model_fields))
    )


def test_zero_leaves_a_limit_as_it_is() -> None:
    assert limits(memory=5, pids_limit=0) == {"memory": 5, "pids_limit": 0}
    assert limits() == {}


def test_what_cannot_be_updated_is_refused_by_name() -> None:
    with pytest.raises(Unsupported, match="Ulimits of a container cannot be updated"):
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
