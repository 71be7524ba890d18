"""What the runtime calls for itself does not need the consent of the container's profile."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.lab.engine import Engine

pytestmark = pytest.mark.root

# What a container's start, or an exec, calls on its way; none of it is needed by `busybox true`.
CALLS = (
    "faccessat2", "faccessat", "access", "stat", "newfstatat", "statx", "openat", "getdents64", "getcwd", "chdir",
    "close_range", "fcntl", "close", "dup2", "dup3", "prctl", "clone", "clone3", "setsid", "ioctl", "sendmsg",
    "recvmsg", "sendto", "recvfrom", "rt_sigaction", "rt_sigprocmask", "setuid", "setgid", "setresuid", "setgroups",
)  # fmt: skip


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    path = tmp_path / "profile.json"
    rule = {"names": list(CALLS), "action": "SCMP_ACT_ERRNO", "errnoRet": 13}
    path.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}))
    return path


@pytest.mark.parametrize("more", [[], ["--security-opt", "no-new-privileges"], ["--user", "1000:1000"], ["-t"]])
def test_a_start(engine: Engine, profile: Path, more: list[str]) -> None:
    options = ["--security-opt", f"seccomp={profile}", *more]
    result = engine.docker("run", "--rm", *options, "busybox", "true", check=False)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("more", [[], ["-t"], ["--user", "1000:1000"]])
@pytest.mark.parametrize("security", [[], ["--security-opt", "no-new-privileges"]])
def test_an_exec(engine: Engine, profile: Path, more: list[str], security: list[str]) -> None:
    options = ["--security-opt", f"seccomp={profile}", *security]
    engine.docker("run", "-d", "--name", "box", *options, "busybox", "sleep", "1000")
    result = engine.docker("exec", *more, "box", "true", check=False)
    assert (result.returncode, result.stderr) == (0, "")
    refused = engine.docker("exec", *more, "box", "cat", "/etc/passwd", check=False)
    assert refused.returncode != 0  # the filter is on


def test_what_cannot_be_executed_is_still_told(engine: Engine, profile: Path) -> None:
    options = ["--security-opt", f"seccomp={profile}"]
    for command, code in (("nosuch", 127), ("/etc/passwd", 126)):
        result = engine.docker("run", "--rm", *options, "busybox", command, check=False)
        assert result.returncode == code, result.stderr
