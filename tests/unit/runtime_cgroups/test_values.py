"""Values: what is refused, and how version 1's numbers become version 2's."""

from __future__ import annotations

from typing import Any

import pytest

from services.executor.runtime.cgroups.checks import check_resources
from services.executor.runtime.cgroups.v2 import cpu, io, memory
from services.executor.runtime.errors import InvalidSpec


@pytest.mark.parametrize(
    ("resources", "field"),
    [
        ({"cpu": {"shares": 1}}, "cpu.shares"),
        ({"cpu": {"shares": 262145}}, "cpu.shares"),
        ({"cpu": {"shares": "many"}}, "cpu.shares"),
        ({"cpu": {"idle": 2}}, "cpu.idle"),
        ({"cpu": {"cpus": 3}}, "cpu.cpus"),
        ({"memory": {"swappiness": 101}}, "memory.swappiness"),
        ({"memory": {"limit": 200, "swap": 100}}, "memory.swap"),
        ({"memory": {"limit": -2}}, "memory.limit"),
        ({"pids": {"limit": True}}, "pids.limit"),
        ({"blockIO": {"weight": 9}}, "blockIO.weight"),
        ({"blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0}]}}, "blockIO.throttleReadBpsDevice[0].rate"),
        ({"devices": [{"access": "r"}]}, "devices[0].allow"),
        ({"devices": [{"allow": True, "type": "x"}]}, "devices[0].type"),
        ({"devices": [{"allow": True, "access": ""}]}, "devices[0].access"),
        ({"hugepageLimits": [{"pageSize": "../x", "limit": 1}]}, "hugepageLimits[0].pageSize"),
        ({"unified": {"../x": "1"}}, "unified"),
        ({"unified": {"cpu.weight": 1}}, "unified[cpu.weight]"),
    ],
)
def test_a_refusal_names_the_field(resources: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        check_resources(resources)
    assert caught.value.field == f"linux.resources.{field}"


def test_what_means_unchanged_is_fine() -> None:
    check_resources({"cpu": {"shares": 0, "quota": None}, "memory": None, "blockIO": {"weight": 0}, "pids": {}})


@pytest.mark.parametrize(("shares", "weight"), [(2, 1), (1024, 39), (262144, 10000)])
def test_cpu_weight(shares: int, weight: int) -> None:
    assert cpu.weight(shares) == weight


@pytest.mark.parametrize(("value", "weight"), [(10, 1), (500, 4950), (1000, 10000)])
def test_io_weight(value: int, weight: int) -> None:
    assert io.weight(value) == weight


@pytest.mark.parametrize(
    ("limit", "swap", "expected"), [(100, 300, 200), (100, 100, 0), (100, -1, -1), (-1, 0, -1), (100, 0, 0), (0, 0, 0)]
)
def test_swap_is_counted_by_itself(limit: int, swap: int, expected: int) -> None:
    assert memory.swap_limit(limit, swap) == expected


def test_swap_needs_a_limit_to_be_counted_on_top_of() -> None:
    with pytest.raises(InvalidSpec):
        memory.swap_limit(0, 300)
