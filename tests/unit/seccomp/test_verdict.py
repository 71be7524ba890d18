"""What a filter says of a call before it is in force."""

from __future__ import annotations

import os

import pytest

from services.executor.runtime.kernel import syscalls
from services.executor.runtime.seccomp import compiler, verdict
from services.executor.runtime.seccomp.default import default_profile
from services.executor.runtime.seccomp.profile import resolve_profile
from services.executor.runtime.spec.capabilities import DEFAULT
from services.executor.runtime.steps.credentials import _JOINING

pytestmark = pytest.mark.skipif(os.uname().machine not in verdict._MACHINES, reason="another architecture")


def profile(**rule: object) -> bytes:
    spec = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"action": "SCMP_ACT_ERRNO", **rule}]}
    return compiler.compile_filter(spec).program


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_numbers_are_the_kernels(machine: str) -> None:
    table = syscalls.numbers(machine)
    known = verdict._MACHINES[machine][1]
    assert known == {name: table[name] for name in known}
    assert {name for name, _ in _JOINING} <= set(known)


def test_the_default_profile_lets_an_exec_join() -> None:
    resolved = resolve_profile(default_profile(), DEFAULT, "6.1.0", os.uname().machine)
    assert resolved is not None
    assert verdict.permits(compiler.compile_filter(resolved).program, _JOINING)


@pytest.mark.parametrize("name", [name for name, _ in _JOINING])
def test_each_call_counts(name: str) -> None:
    assert not verdict.permits(profile(names=[name]), _JOINING)
    assert verdict.permits(profile(names=["faccessat2"]), _JOINING)


def test_arguments_count() -> None:
    terminal = {"index": 1, "value": 0x540E, "op": "SCMP_CMP_EQ"}
    other = {"index": 1, "value": 0x5412, "op": "SCMP_CMP_EQ"}
    assert not verdict.permits(profile(names=["ioctl"], args=[terminal]), _JOINING)
    assert verdict.permits(profile(names=["ioctl"], args=[other]), _JOINING)
    assert not verdict.permits(b"\xff" * 8, _JOINING)
