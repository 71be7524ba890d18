"""davit-runc's part of this suite again, where there is cgroup v2 and systemd and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab import machine


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.timeout(machine.TIMEOUT_S + 60)
def test_the_suite_passes_on_version_2(tmp_path: Path) -> None:
    machine.run_tests(tmp_path, "tests/conformance/runtime", "-k davit-runc")
