"""Docker's profile format."""

from __future__ import annotations

from typing import Any

import pytest

from services.executor.runtime.errors import InvalidSpec
from services.executor.runtime.seccomp.compiler import compile_profile
from services.executor.runtime.seccomp.default import default_profile
from services.executor.runtime.seccomp.profile import resolve_profile
from services.executor.runtime.spec.capabilities import DEFAULT


def names(capabilities: tuple[str, ...] = (), *, rules: list[dict[str, Any]] | None = None, **where: str) -> set[str]:
    """Calls that some rule of the resolved profile allows."""
    profile = default_profile() if rules is None else {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules}
    kernel, machine = where.get("kernel", "6.1.0-13-amd64"), where.get("machine", "x86_64")
    resolved = resolve_profile(profile, capabilities, kernel, machine)
    return {name for rule in resolved["syscalls"] if rule["action"] == "SCMP_ACT_ALLOW" for name in rule["names"]}


def test_a_default_container_may_not_mount_or_trace_others_or_load_modules() -> None:
    allowed = names(DEFAULT)
    assert {"read", "execve", "chroot", "ptrace", "clone", "fchmodat2"} <= allowed
    assert not allowed & {"mount", "unshare", "setns", "init_module", "kexec_load", "process_vm_readv", "keyctl", "bpf"}


def test_capabilities_bring_their_calls() -> None:
    base = names(DEFAULT)
    assert names((*DEFAULT, "CAP_SYS_ADMIN")) - base >= {"mount", "unshare", "setns", "clone3", "bpf"}
    assert names((*DEFAULT, "CAP_SYS_TIME")) - base == {"settimeofday", "stime", "clock_settime", "clock_settime64"}
    assert base - names(tuple(name for name in DEFAULT if name != "CAP_SYS_CHROOT")) == {"chroot"}


def test_clone3_is_said_not_to_exist() -> None:
    resolved = resolve_profile(default_profile(), DEFAULT, "6.1", "x86_64")
    (rule,) = [rule for rule in resolved["syscalls"] if rule["names"] == ["clone3"]]
    assert (rule["action"], rule["errnoRet"]) == ("SCMP_ACT_ERRNO", 38)


def test_conditions() -> None:
    def rule(**conditions: Any) -> list[dict[str, Any]]:
        return [{"names": ["reboot"], "action": "SCMP_ACT_ALLOW", **conditions}]

    assert names(rules=rule(includes={"minKernel": "4.8"}), kernel="4.8.0")
    assert not names(rules=rule(includes={"minKernel": "4.8"}), kernel="4.7.9")
    assert not names(rules=rule(excludes={"minKernel": "4.8"}), kernel="5.0")
    assert names(rules=rule(includes={"arches": ["amd64"]}))
    assert not names(rules=rule(includes={"arches": ["arm64"]}))
    assert not names(rules=rule(excludes={"arches": ["amd64"]}))
    assert not names(rules=rule(includes={"caps": ["CAP_A", "CAP_B"]}), capabilities=("CAP_A",))
    assert not names(rules=rule(excludes={"caps": ["CAP_A", "CAP_B"]}), capabilities=("CAP_A",))


def test_architectures_come_from_the_map_or_the_list() -> None:
    resolved = resolve_profile(default_profile(), (), "6.1", "aarch64")
    assert resolved["architectures"] == ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]
    plain = {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"]}
    assert resolve_profile(plain, (), "6.1", "x86_64")["architectures"] == ["SCMP_ARCH_X86"]


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"], "archMap": [{"architecture": "x"}]},
        {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"name": "a", "names": ["b"], "action": "SCMP_ACT_ALLOW"}]},
        {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["b"], "includes": {"moon": "full"}}]},
        {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["b"], "includes": {"minKernel": "new"}}]},
    ],
)
def test_contradictions_are_refused(broken: dict[str, Any]) -> None:
    with pytest.raises(InvalidSpec):
        resolve_profile(broken, (), "6.1", "x86_64")


def test_old_profiles_name_one_call_a_rule() -> None:
    assert names(rules=[{"name": "getpid", "action": "SCMP_ACT_ALLOW", "args": []}]) == {"getpid"}


def test_compile_profile_takes_both_formats() -> None:
    docker = compile_profile(default_profile(), DEFAULT, "x86_64")
    oci = compile_profile(resolve_profile(default_profile(), DEFAULT, "6.1", "x86_64"), (), "x86_64")
    assert docker.program == oci.program
