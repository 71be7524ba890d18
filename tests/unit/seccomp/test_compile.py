"""The compiler, judged by running its programs."""

from __future__ import annotations

import errno
import random
from typing import Any

import pytest

from services.executor.runtime.errors import InvalidSpec
from services.executor.runtime.kernel import syscalls
from services.executor.runtime.seccomp import compiler
from services.executor.runtime.seccomp.default import default_profile
from services.executor.runtime.seccomp.filter import ACTIONS, CompiledFilter
from services.executor.runtime.seccomp.profile import resolve_profile
from services.executor.runtime.spec.capabilities import DEFAULT, NAMES
from tests.unit.seccomp import machine
from tests.unit.seccomp.machine import ALLOW, AUDIT, ERRNO, KILL

X86_64 = syscalls.numbers("x86_64")
EPERM, ENOSYS = ERRNO | errno.EPERM, ERRNO | errno.ENOSYS


def answer(profile: dict[str, Any], name: str, *arguments: int, architecture: str = "x86_64") -> int:
    """What the compiled profile says to a call by name."""
    number = syscalls.numbers(architecture)[name] | (syscalls.X32_BIT if architecture == "x32" else 0)
    program = compiler.compile_filter(profile, "x86_64").program
    return machine.run(program, AUDIT[architecture], number, arguments)


def profile(*rules: dict[str, Any], default: str = "SCMP_ACT_ERRNO", **more: Any) -> dict[str, Any]:
    return {"defaultAction": default, "syscalls": list(rules), **more}


def allow(*names: str, **more: Any) -> dict[str, Any]:
    return {"names": list(names), "action": "SCMP_ACT_ALLOW", **more}


def argument(operator: str, value: int, second: int = 0, index: int = 0) -> dict[str, Any]:
    return {"index": index, "value": value, "valueTwo": second, "op": f"SCMP_CMP_{operator}"}


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        ("SCMP_ACT_ALLOW", 0x7FFF0000),
        ("SCMP_ACT_LOG", 0x7FFC0000),
        ("SCMP_ACT_TRACE", 0x7FF00001),
        ("SCMP_ACT_TRAP", 0x00030000),
        ("SCMP_ACT_ERRNO", 0x00050001),
        ("SCMP_ACT_KILL", 0),
        ("SCMP_ACT_KILL_THREAD", 0),
        ("SCMP_ACT_KILL_PROCESS", 0x80000000),
    ],
)
def test_every_action_has_the_kernels_value(action: str, expected: int) -> None:
    default = "SCMP_ACT_LOG" if action == "SCMP_ACT_ALLOW" else "SCMP_ACT_ALLOW"
    rules = profile({"names": ["getpid"], "action": action}, default=default)
    assert answer(rules, "getpid") == expected
    assert answer(rules, "getppid") == ACTIONS[default]


def test_errno_ret_of_a_rule_and_of_the_default() -> None:
    rules = profile({"names": ["mount"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}, allow("zzz"), defaultErrnoRet=13)
    assert answer(rules, "mount") == ERRNO | 38
    assert answer(rules, "accept") == ERRNO | 13


VALUES = [0, 1, 4, 5, 6, 2**32 - 1, 2**32, 2**32 + 4, 2**32 + 5, 2**32 + 6, 2**63, 2**64 - 1]
MEANINGS = {
    "NE": lambda given, value: given != value,
    "LT": lambda given, value: given < value,
    "LE": lambda given, value: given <= value,
    "EQ": lambda given, value: given == value,
    "GE": lambda given, value: given >= value,
    "GT": lambda given, value: given > value,
}


@pytest.mark.parametrize("operator", MEANINGS)
@pytest.mark.parametrize("value", [0, 5, 2**32 - 1, 2**32 + 5, 2**64 - 1])
def test_comparisons_are_of_64_bits_without_sign(operator: str, value: int) -> None:
    rules = profile(allow("ioctl", args=[argument(operator, value, index=1)]))
    for given in VALUES:
        expected = ALLOW if MEANINGS[operator](given, value) else EPERM
        assert answer(rules, "ioctl", 77, given) == expected, (hex(given), hex(value))


@pytest.mark.parametrize("mask", [0, 0xFF00, 0x7E020000, 0xFF_0000_0000, 2**64 - 1])
@pytest.mark.parametrize("wanted", [0, 0x1200, 0x12_0000_0000])
def test_masked_comparison(mask: int, wanted: int) -> None:
    rules = profile(allow("ioctl", args=[argument("MASKED_EQ", mask, wanted)]))
    for given in [*VALUES, 0x1200, 0x1234, 0x12_0000_1234, 0x20000]:
        assert answer(rules, "ioctl", given) == (ALLOW if given & mask == wanted & mask else EPERM)


def test_conditions_on_different_arguments_hold_together_and_on_the_same_one_are_alternatives() -> None:
    both = profile(allow("socket", args=[argument("EQ", 1), argument("EQ", 2, index=1)]))
    assert answer(both, "socket", 1, 2) == ALLOW
    assert answer(both, "socket", 1, 3) == EPERM
    either = profile(allow("socket", args=[argument("EQ", 1), argument("EQ", 2)]))
    assert answer(either, "socket", 1) == answer(either, "socket", 2) == ALLOW
    assert answer(either, "socket", 3) == EPERM


def test_an_unconditional_rule_hides_the_conditional_ones() -> None:
    rules = profile(allow("socket", args=[argument("EQ", 1)]), allow("socket"))
    assert answer(rules, "socket", 9) == ALLOW


def test_other_architectures_are_killed_unless_they_are_in_the_filter() -> None:
    rules = profile(allow("getpid"))
    assert answer(rules, "getpid", architecture="x86") == KILL
    rules["architectures"] = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]
    for architecture in ("x86_64", "x86", "x32"):
        assert answer(rules, "getpid", architecture=architecture) == ALLOW
        assert answer(rules, "acct", architecture=architecture) in {EPERM, ENOSYS}


def test_x32_calls_are_not_taken_for_native_ones() -> None:
    rules = profile({"names": ["mount"], "action": "SCMP_ACT_ERRNO"}, default="SCMP_ACT_ALLOW")
    assert answer(rules, "getpid", architecture="x32") == KILL


def test_calls_newer_than_the_profile_answer_enosys() -> None:
    rules = profile(allow("read", "faccessat2"))
    assert answer(rules, "close_range") == EPERM
    assert answer(rules, "epoll_pwait2") == ENOSYS
    permissive = profile({"names": ["mount"], "action": "SCMP_ACT_ERRNO"}, default="SCMP_ACT_ALLOW")
    assert answer(permissive, "epoll_pwait2") == ALLOW


def test_unknown_names_are_left_out() -> None:
    rules = profile(allow("no_such_call_ever", "getpid"))
    assert answer(rules, "getpid") == ALLOW


def test_the_socket_calls_of_x86_are_also_reached_through_their_common_call() -> None:
    rules = profile(allow("bind", "shmget"), architectures=["SCMP_ARCH_X86"])
    assert answer(rules, "socketcall", 2, architecture="x86") == ALLOW
    assert answer(rules, "socketcall", 3, architecture="x86") == EPERM
    assert answer(rules, "ipc", 23, architecture="x86") == ALLOW


@pytest.mark.parametrize(
    ("broken", "field"),
    [
        ({"defaultAction": "SCMP_ACT_MAYBE"}, "linux.seccomp.defaultAction"),
        ({"defaultAction": "SCMP_ACT_NOTIFY"}, "linux.seccomp.defaultAction"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1}, "linux.seccomp.defaultErrnoRet"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_VAX"]}, "linux.seccomp.architectures"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_X"]}, "linux.seccomp.flags"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "x"}, "linux.seccomp.listenerMetadata"),
        (profile({"names": [], "action": "SCMP_ACT_ALLOW"}), "linux.seccomp.syscalls[0].names"),
        (profile(allow("read", errnoRet=2)), "linux.seccomp.syscalls[0].errnoRet"),
        (profile(allow("read", args=[argument("EQ", 0, index=6)])), "linux.seccomp.syscalls[0].args[0].index"),
        (profile(allow("read", args=[argument("IS", 0)])), "linux.seccomp.syscalls[0].args[0].op"),
        (profile(allow("read", args=[argument("EQ", -1)])), "linux.seccomp.syscalls[0].args[0].value"),
        (profile({"names": ["write"], "action": "SCMP_ACT_NOTIFY"}), "linux.seccomp.syscalls[0].action"),
        (profile({"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}), "linux.seccomp.listenerPath"),
    ],
)
def test_a_refusal_names_the_field(broken: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        compiler.compile_filter(broken, "x86_64")
    assert caught.value.field == field


def test_a_notifying_filter_asks_for_a_listener_and_survives_packing() -> None:
    rules = profile({"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}, listenerPath="/run/l.sock", listenerMetadata="m")
    rules["flags"] = ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_TSYNC"]
    compiled = compiler.compile_filter(rules, "x86_64")
    assert compiled.flags == 8 | 2
    again = CompiledFilter.unpack(compiled.pack())
    assert (again.program, again.flags) == (compiled.program, compiled.flags)
    assert (again.listener_path, again.listener_metadata) == ("/run/l.sock", "m")


def test_arm_tables_are_compiled_for_an_arm_machine() -> None:
    rules = profile(allow("getpid"), architectures=["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"])
    program = compiler.compile_filter(rules, "aarch64").program
    assert machine.run(program, AUDIT["aarch64"], 172) == ALLOW
    assert machine.run(program, AUDIT["arm"], 20) == ALLOW
    assert machine.run(program, AUDIT["x86_64"], X86_64["getpid"]) == KILL


# --- against libseccomp -------------------------------------------------------------------------------------------

library = machine.libseccomp()
needs_libseccomp = pytest.mark.skipif(library is None, reason="libseccomp2 is not installed")
TOKENS = {"SCMP_ARCH_X86_64": 0xC000003E, "SCMP_ARCH_X86": 0x40000003, "SCMP_ARCH_X32": 0x4000003E}


def differences(rules: dict[str, Any], architectures: list[str], chooser: random.Random) -> list[str]:
    """Calls that ours and libseccomp's filter answer differently; those it does not know by name are not asked."""
    ours = compiler.compile_filter({**rules, "architectures": architectures}, "x86_64").program
    theirs = machine.reference_filter(library, rules, [TOKENS[name] for name in architectures])
    values = [0, 1, 0xFFFFFFFF, 2**32, 0x7E020000, 0x20008, 40, 2**64 - 1]
    for rule in rules["syscalls"]:
        values += [one["value"] for one in rule.get("args", [])]
    found = []
    for name in architectures:
        table_name = name.removeprefix("SCMP_ARCH_").lower()
        table = syscalls.numbers(table_name)
        bit = syscalls.X32_BIT if table_name == "x32" else 0
        named = {call for rule in rules["syscalls"] for call in rule["names"]}
        newest = max((table[call] for call in named if call in table), default=10**6)
        for call, number in table.items():
            if library.seccomp_syscall_resolve_name_arch(TOKENS[name], call.encode()) == -1 or number > newest:
                continue
            mask = 2**64 - 1 if table_name == "x86_64" else 2**32 - 1
            arguments = tuple(chooser.choice(values) & mask for _ in range(6))
            answers = [machine.run(program, AUDIT[table_name], number | bit, arguments) for program in (ours, theirs)]
            if answers[0] != answers[1]:
                found.append(f"{table_name} {call} {arguments} {answers}")
    return found


@needs_libseccomp
@pytest.mark.parametrize("capabilities", [DEFAULT, NAMES], ids=["default", "all"])
def test_the_default_profile_means_what_libseccomp_makes_of_it(capabilities: tuple[str, ...]) -> None:
    resolved = resolve_profile(default_profile(), capabilities, "6.1.0", "x86_64")
    assert differences(resolved, list(TOKENS), random.Random(1)) == []


@needs_libseccomp
@pytest.mark.parametrize("seed", range(12))
def test_random_profiles_mean_what_libseccomp_makes_of_them(seed: int) -> None:
    chooser = random.Random(seed)
    default, action = chooser.choice(
        [("SCMP_ACT_ERRNO", "SCMP_ACT_ALLOW"), ("SCMP_ACT_ALLOW", "SCMP_ACT_TRAP"), ("SCMP_ACT_KILL", "SCMP_ACT_LOG")]
    )
    rules = []
    for _ in range(chooser.randint(1, 10)):
        rule: dict[str, Any] = {"names": chooser.sample(sorted(X86_64), chooser.randint(1, 6)), "action": action}
        if chooser.random() < 0.6:
            rule["args"] = [
                argument(
                    chooser.choice([*MEANINGS, "MASKED_EQ"]), chooser.choice(VALUES), chooser.choice(VALUES), index
                )
                for index in chooser.sample(range(6), chooser.randint(1, 3))
            ]
        rules.append(rule)
    assert differences(profile(*rules, default=default), ["SCMP_ARCH_X86_64"], chooser) == []
