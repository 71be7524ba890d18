"""What a list of device rules amounts to, and how to get from one to another."""

from __future__ import annotations

from typing import Any

import pytest

from services.executor.runtime.cgroups.device_rules import WILDCARD, DeviceRules
from services.executor.runtime.errors import InvalidSpec
from services.executor.runtime.spec import defaults


def allow(kind: str, major: int | None = None, minor: int | None = None, access: str = "rwm") -> dict[str, Any]:
    return {"allow": True, "type": kind, "major": major, "minor": minor, "access": access}


def deny(kind: str, major: int | None = None, minor: int | None = None, access: str = "rwm") -> dict[str, Any]:
    return {**allow(kind, major, minor, access), "allow": False}


NOTHING = {"allow": False, "access": "rwm"}
EVERYTHING = {"allow": True, "access": "rwm"}


def test_a_new_group_allows_everything() -> None:
    assert DeviceRules.of([]).allow_by_default


def test_rules_add_up_and_a_rule_for_all_starts_over() -> None:
    rules = DeviceRules.of([NOTHING, allow("c", 1, 3, "r"), allow("c", 1, 3, "w"), allow("b", 8, access="m")])
    assert not rules.allow_by_default
    assert rules.exceptions == {("c", 1, 3): frozenset("rw"), ("b", 8, WILDCARD): frozenset("m")}
    assert DeviceRules.of([NOTHING, allow("c", 1, 3), EVERYTHING]).exceptions == {}


def test_what_was_given_can_be_taken_back() -> None:
    rules = DeviceRules.of([NOTHING, allow("c", 1, 3), deny("c", 1, 3, "w"), allow("c", 5, 0), deny("c", 5)])
    assert rules.exceptions == {("c", 1, 3): frozenset("rm")}


def test_denials_where_everything_is_allowed() -> None:
    rules = DeviceRules.of([EVERYTHING, deny("b", 8, 0)])
    assert rules.allow_by_default
    assert rules.exceptions == {("b", 8, 0): frozenset("rwm")}


def test_a_hole_in_a_wider_rule_is_refused() -> None:
    with pytest.raises(InvalidSpec) as caught:
        DeviceRules.of([NOTHING, allow("c", 10), deny("c", 10, 229)])
    assert caught.value.field == "linux.resources.devices[2]"


def test_changes_write_only_the_difference() -> None:
    before = DeviceRules.of([NOTHING, allow("c", 1, 3), allow("c", 1, 5, "rw")])
    after = DeviceRules.of([NOTHING, allow("c", 1, 3, "r"), allow("c", 1, 5), allow("c", 1, 7)])
    assert before.changes(after) == [
        ("devices.allow", "c 1:5 m"),
        ("devices.allow", "c 1:7 rwm"),
        ("devices.deny", "c 1:3 wm"),
    ]
    assert after.changes(after) == []


def test_changes_across_the_default_start_over() -> None:
    everything, nothing = DeviceRules.of([EVERYTHING]), DeviceRules.of([NOTHING, allow("c", 1, 3)])
    assert everything.changes(nothing) == [("devices.deny", "a"), ("devices.allow", "c 1:3 rwm")]
    assert nothing.changes(everything) == [("devices.allow", "a")]
    assert everything.changes(everything) == []


def test_the_kernels_list_is_read_back() -> None:
    assert DeviceRules.parse("a *:* rwm\n").allow_by_default
    rules = DeviceRules.parse("c 1:3 rwm\nc 136:* rw\nb *:* m\n")
    assert rules.exceptions == {
        ("c", 1, 3): frozenset("rwm"),
        ("c", 136, WILDCARD): frozenset("rw"),
        ("b", WILDCARD, WILDCARD): frozenset("m"),
    }


def test_dockers_rules_and_what_every_container_may() -> None:
    rules = DeviceRules.for_container(defaults.device_rules())
    assert ("c", 1, 3) in rules.exceptions
    assert ("c", WILDCARD, WILDCARD) in rules.exceptions
    assert ("c", 10, 229) not in rules.exceptions
    assert DeviceRules.for_container(defaults.device_rules(privileged=True)).exceptions == {}
