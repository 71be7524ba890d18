"""Names, numbers, Docker's arithmetic."""

from __future__ import annotations

import pytest

from services.executor.runtime.errors import InvalidSpec
from services.executor.runtime.spec import capabilities, defaults
from services.executor.runtime.spec.capabilities import DEFAULT, NAMES, docker_capabilities


def test_numbers_are_the_kernels() -> None:
    assert capabilities.NUMBERS["CAP_CHOWN"] == 0
    assert capabilities.NUMBERS["CAP_SYS_ADMIN"] == 21
    assert capabilities.NUMBERS["CAP_CHECKPOINT_RESTORE"] == 40
    assert len(NAMES) == 41


def test_masks_and_names_are_inverse() -> None:
    # what /proc/self/status says in a default container
    assert capabilities.mask(DEFAULT) == 0xA80425FB
    assert set(capabilities.names(0xA80425FB)) == set(DEFAULT)
    assert capabilities.mask(["CAP_FROM_THE_FUTURE"]) == 0


ALL = ["CAP_CHOWN", "CAP_KILL", "CAP_SYS_ADMIN"]


@pytest.mark.parametrize(
    ("add", "drop", "expected"),
    [
        (None, None, list(DEFAULT)),
        (["net_admin"], ["CAP_KILL"], [name for name in DEFAULT if name != "CAP_KILL"] + ["CAP_NET_ADMIN"]),
        (["CAP_CHOWN"], ["CAP_CHOWN"], [name for name in DEFAULT if name != "CAP_CHOWN"] + ["CAP_CHOWN"]),
        (["ALL"], ["sys_admin"], ["CAP_CHOWN", "CAP_KILL"]),
        (["all"], ["all"], ALL),
        (["kill", "Net_Raw"], ["ALL"], ["CAP_KILL", "CAP_NET_RAW"]),
        ([], ["ALL"], []),
    ],
)
def test_docker_arithmetic(add: list[str] | None, drop: list[str] | None, expected: list[str]) -> None:
    assert docker_capabilities(add, drop, all_names=ALL) == expected


def test_privileged_is_everything_there_is() -> None:
    assert docker_capabilities(["kill"], ["kill"], True, all_names=ALL) == ALL


@pytest.mark.parametrize(("add", "drop", "field"), [(["foo"], None, "CapAdd"), (None, ["cap_foo"], "CapDrop")])
def test_unknown_names_have_dockers_words(add: list[str] | None, drop: list[str] | None, field: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        docker_capabilities(add, drop, all_names=ALL)
    assert caught.value.message == f'invalid {field}: unknown capability: "CAP_FOO"'


@pytest.mark.parametrize("sets", [{"bounding": [3]}, {"unbounding": ["CAP_KILL"]}], ids=["type", "set"])
def test_sets_are_checked(sets: dict[str, list[str]]) -> None:
    with pytest.raises(InvalidSpec):
        capabilities.validate(sets)
    capabilities.validate({"bounding": ["CAP_KILL", "CAP_FROM_THE_FUTURE"], "ambient": None})


def test_another_user_gets_the_bounding_set_alone() -> None:
    assert defaults.capability_sets(["CAP_KILL"], 1000) == {"bounding": ["CAP_KILL"]}
    assert set(defaults.capability_sets(["CAP_KILL"], 0)) == {"bounding", "effective", "permitted"}


def test_unknown_names_are_found_once() -> None:
    sets = {"bounding": ["CAP_KILL", "KILL"], "permitted": ["KILL", "CAP_NEW"]}
    capabilities.validate(sets)
    assert capabilities.unknown(sets) == ["KILL", "CAP_NEW"]
