"""The tables, against the headers of the machine where there are any."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from services.executor.runtime.kernel import syscalls
from tests.conftest import missing

HEADERS = Path("/usr/include/x86_64-linux-gnu/asm")


@pytest.mark.parametrize(("architecture", "header"), [("x86_64", "64"), ("x86", "32"), ("x32", "x32")])
def test_every_call_of_the_headers_is_in_the_table(architecture: str, header: str) -> None:
    path = HEADERS / f"unistd_{header}.h"
    if not path.exists():
        missing("linux-libc-dev")
    pattern = re.compile(r"#define __NR_(\w+)\s+\(?(?:__X32_SYSCALL_BIT \+ )?(\d+)")
    found = {name: int(number) for name, number in pattern.findall(path.read_text())}
    table = syscalls.numbers(architecture)
    assert found
    assert {name: table.get(name) for name in found} == found


@pytest.mark.parametrize("architecture", ["x86_64", "x86", "x32", "aarch64", "arm"])
def test_newer_calls_have_one_number_everywhere(architecture: str) -> None:
    table = syscalls.numbers(architecture)
    expected = {"pidfd_send_signal": 424, "clone3": 435, "openat2": 437, "futex_waitv": 449, "mseal": 462}
    assert {name: table[name] for name in expected} == expected
    assert len(set(table.values())) == len(table)
