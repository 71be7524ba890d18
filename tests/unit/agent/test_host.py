"""Node facts and the machine's counters, against what the kernel and the standard library say."""

from __future__ import annotations

import os
from pathlib import Path

from services.executor.agent import host


def test_the_machine_s_facts() -> None:
    assert host.cpus() == len(os.sched_getaffinity(0))
    total = int(Path("/proc/meminfo").read_text().split()[1]) * 1024
    assert host.memory_bytes() == total
    assert 0 < host.memory_available_bytes() <= total
    assert host.load() >= 0


def test_the_machine_s_time_is_docker_s() -> None:
    def counted() -> int:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
        return sum(map(int, fields)) * (1_000_000_000 // os.sysconf("SC_CLK_TCK"))

    before, found, after = counted(), host.cpu_ns(), counted()
    assert before <= found <= after
