"""Id maps as text."""

from __future__ import annotations

from typing import Any

import pytest

from services.executor.runtime.errors import InvalidSpec
from services.executor.runtime.spec import idmap


def entry(container: Any, host: Any, size: Any) -> dict[str, Any]:
    return {"containerID": container, "hostID": host, "size": size}


def test_all_ids_at_once() -> None:
    assert idmap.map_lines([entry(0, 0, 2**32 - 1)], "f") == ["0 0 4294967295"]


def test_lines_are_the_kernels() -> None:
    assert idmap.map_lines([entry(0, 1000, 1), entry(1, 100000, 65535)], "f") == ["0 1000 1", "1 100000 65535"]


@pytest.mark.parametrize(
    ("mappings", "field"),
    [
        ([entry(0, 0, 0)], "f[0].size"),
        ([entry(1, 0, 2**32 - 1)], "f[0].size"),
        ([entry(0, 0, 2**32)], "f[0].size"),
        ([entry(-1, 0, 1)], "f[0].containerID"),
        ([entry(0, 2**32, 1)], "f[0].hostID"),
        ([entry(0, None, 1)], "f[0].hostID"),
        ([entry(0, 0, 10), entry(5, 100, 10)], "f"),
        ([entry(0, 0, 10), entry(50, 5, 10)], "f"),
        ([entry(number, number, 1) for number in range(341)], "f"),
    ],
)
def test_a_refusal_names_the_field(mappings: list[dict[str, Any]], field: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        idmap.map_lines(mappings, "f")
    assert caught.value.field == field


def test_ids_are_translated() -> None:
    mappings = [entry(0, 1000, 1), entry(1, 100000, 10)]
    assert [idmap.host_id(mappings, number) for number in (0, 1, 10, 11)] == [1000, 100000, 100009, None]
