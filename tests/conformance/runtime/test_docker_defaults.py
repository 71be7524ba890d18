"""What Docker gives a container by default, seen from inside: of the reference engine, and of davit-runc."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.runtime.conftest import Bundle, Runtime
from tests.integration.runtime.hardening import as_docker, build, ours
from tests.lab.reference import ReferenceEngine

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

# Every call in a child of its own, with arguments that are wrong for all of them; what came of it on a line each.
PROBE = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
int main(int count, char **words) {
    for (int number = 0; number < atoi(words[1]); number++) {
        int answer[2];
        if (pipe(answer)) return 2;
        pid_t child = fork();
        if (child == 0) {
            signal(SIGALRM, SIG_DFL);
            alarm(1);
            long result = syscall(number, -1L, -1L, -1L, -1L, -1L, -1L);
            int code = result == -1 ? errno : 0;
            write(answer[1], &code, sizeof code);
            _exit(0);
        }
        close(answer[1]);
        int code = -1;
        read(answer[0], &code, sizeof code);
        close(answer[0]);
        waitpid(child, 0, 0);
        printf("%d %d\n", number, code);
        fflush(stdout);
    }
}
"""
CALLS = 480
EPERM, ENOSYS = 1, 38
# The last call that the reference engine's profile knows of; ours decides those after it itself.
NEWEST_OF_REFERENCE = 450
# Newer ones that do no more than an allowed older call does.
NEWER_ALLOWED = {451, 452, 453, 454, 455, 456, 462, 463, 464, 465, 466}


@pytest.fixture(scope="module")
def reference() -> Iterator[ReferenceEngine]:
    if not ReferenceEngine.available():
        pytest.skip("the reference engine is not installed")
    with ReferenceEngine() as engine:
        engine.import_busybox()
        yield engine


@pytest.fixture
def bundle(tmp_path: Path) -> Iterator[Bundle]:
    runtime = ours(tmp_path)
    made = as_docker(runtime.bundle())
    made.runtime = runtime  # type: ignore[attr-defined]
    yield made
    runtime.clean()


def ask(reference: ReferenceEngine, bundle: Bundle, script: str) -> tuple[str, str]:
    """The same script in a container of each."""
    theirs = reference.docker("run", "--rm", "busybox", "sh", "-c", script).stdout
    runtime: Runtime = bundle.runtime  # type: ignore[attr-defined]
    return theirs.rstrip("\n"), runtime.output(bundle, script)


def test_identity_capabilities_and_filters(reference: ReferenceEngine, bundle: Bundle) -> None:
    pattern = "grep -E '^(Cap|NoNewPrivs|Seccomp|Uid|Gid|Umask|SigBlk|SigIgn)' /proc/self/status"
    theirs, our = ask(reference, bundle, pattern)
    assert our == theirs


def test_every_system_call(reference: ReferenceEngine, bundle: Bundle, tmp_path: Path) -> None:
    probe = build(PROBE, tmp_path / "probe")
    theirs = reference.docker("run", "--rm", "-v", f"{probe}:/probe:ro", "busybox", "/probe", str(CALLS)).stdout
    bundle.spec["mounts"].append({"destination": "/probe", "source": str(probe), "options": ["bind", "ro"]})
    bundle.process["args"] = ["/probe", str(CALLS)]
    runtime: Runtime = bundle.runtime  # type: ignore[attr-defined]
    reference_answers, answers = answered(theirs), answered(runtime.run(bundle).out)
    assert len(answers) == len(reference_answers) == CALLS
    known = range(NEWEST_OF_REFERENCE + 1)
    different = {
        number: (reference_answers[number], answers[number])
        for number in known
        if reference_answers[number] != answers[number]
    }
    # ENOSYS and EPERM both refuse: which of them depends on how far a profile reaches
    different = {number: pair for number, pair in different.items() if not set(pair) <= {EPERM, ENOSYS}}
    assert different == {}
    for number in range(NEWEST_OF_REFERENCE + 1, CALLS):
        if number not in NEWER_ALLOWED:
            assert answers[number] in {EPERM, ENOSYS}, number


def answered(text: str) -> dict[int, int]:
    """Error by number of the call."""
    pairs = (line.split() for line in text.splitlines())
    return {int(number): int(code) for number, code in pairs}


def test_masked_and_read_only_paths(reference: ReferenceEngine, bundle: Bundle) -> None:
    """Ours masks what the reference masks, and what Docker has added since."""
    theirs, our = ask(reference, bundle, "cat /proc/self/mountinfo")
    wanted, have = (restricted(text) for text in (theirs, our))
    assert wanted - have == set()
    assert {path for path, _ in have - wanted} <= {"/proc/interrupts", "/sys/devices/virtual/powercap"}


def restricted(mountinfo: str) -> set[tuple[str, bool]]:
    """Mount points below /proc and /sys, and whether they are read-only."""
    lines = [line.split() for line in mountinfo.splitlines()]
    return {
        (words[4], "ro" in words[5].split(","))
        for words in lines
        if re.match(r"/(proc|sys)/", words[4]) and not words[4].startswith("/sys/fs/cgroup")
    }


def test_mounts_and_their_options(reference: ReferenceEngine, bundle: Bundle) -> None:
    script = "grep -E ' /(proc|dev|dev/pts|dev/shm|dev/mqueue|sys|sys/fs/cgroup) ' /proc/mounts | sort -k2"
    theirs, our = ask(reference, bundle, script)
    assert [options(line) for line in our.splitlines()] == [options(line) for line in theirs.splitlines()]


def options(line: str) -> tuple[str, str, frozenset[str]]:
    _, target, kind, found, *_ = line.split()
    # What is asked to be read-only is: runc 1.1 leaves the directory that the hierarchies are mounted in writable.
    left_out = {"ro", "rw"} if target == "/sys/fs/cgroup" else set()
    return target, kind, frozenset(found.split(",")) - left_out


def test_devices(reference: ReferenceEngine, bundle: Bundle) -> None:
    script = "cd /dev; stat -c '%n %F %t:%T %a %u:%g' full null ptmx random shm tty urandom zero fd mqueue pts | sort"
    theirs, our = ask(reference, bundle, script)
    assert our == theirs


def test_device_rules(reference: ReferenceEngine, bundle: Bundle) -> None:
    if not Path("/sys/fs/cgroup/devices/devices.list").exists():
        pytest.skip("version 2 has no list to look at")
    theirs, our = ask(reference, bundle, "sort /sys/fs/cgroup/devices/devices.list")
    assert our == theirs


def test_limits_and_signals(reference: ReferenceEngine, bundle: Bundle) -> None:
    theirs, our = ask(reference, bundle, "cat /proc/self/oom_score_adj; umask; cat /proc/sys/net/ipv4/ping_group_range")
    assert our == theirs
