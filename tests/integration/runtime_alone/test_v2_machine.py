"""The same on an older kernel (6.1), where there is cgroup v2 and systemd and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import missing
from tests.integration.runtime_alone.test_shim import RUNC
from tests.lab import machine


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.timeout(machine.TIMEOUT_S + 60)
def test_a_shim_alone_on_version_2(tmp_path: Path) -> None:
    if RUNC is None:
        missing("runc")
    output = machine.run_tests(tmp_path, "tests/integration/runtime_alone", programs={"DAVIT_TEST_RUNC": RUNC})
    assert "passed" in output
    assert "1 skipped" in output
