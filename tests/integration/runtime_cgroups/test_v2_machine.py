"""These tests again, in a virtual machine that has cgroup v2 and systemd and nothing else.

The machine is made by a tool, `cgroup2-vm DIR`, which runs DIR/run in it and passes its output and exit code on: found
in $DAVIT_CGROUP2_VM, on the PATH, or in shared/tools beside the repository.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
# What the test runner consists of; all of it is plain Python.
PACKAGES = ("pytest", "_pytest", "pluggy", "iniconfig", "packaging", "pygments", "py")
TIMEOUT_S = 1500

RUN = """\
#!/bin/sh
cd /payload
export PYTHONPATH=/payload/tree:/payload/packages PYTHONDONTWRITEBYTECODE=1
exec python3 -m pytest -q --color=no -p no:cacheprovider -c /dev/null --rootdir /payload/tree --import-mode=importlib \
    -W ignore tests_here 2>&1
"""


def _tool() -> str:
    candidates = (
        os.environ.get("DAVIT_CGROUP2_VM"),
        shutil.which("cgroup2-vm"),
        str(ROOT.parent / "shared" / "tools" / "cgroup2-vm"),
    )
    for candidate in candidates:
        if candidate and os.access(candidate, os.X_OK):
            return candidate
    pytest.skip("cgroup2-vm is not installed; see $DAVIT_CGROUP2_VM")


def _payload(directory: Path) -> None:
    """The runtime, the tests, pytest, and the script that starts it."""
    tree = directory / "tree"
    ignore = shutil.ignore_patterns("__pycache__", Path(__file__).name)
    for part in ("services/executor/runtime", "tests/integration/runtime_cgroups"):
        shutil.copytree(ROOT / part, tree / part, ignore=ignore)
    for package in ("services", "services/executor"):
        shutil.copy(ROOT / package / "__init__.py", tree / package)
    packages = directory / "packages"
    packages.mkdir()
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        source = Path(spec.origin)
        if source.name == "__init__.py":
            shutil.copytree(source.parent, packages / name, ignore=ignore)
        else:
            shutil.copy(source, packages)
    run = directory / "run"
    run.write_text(RUN.replace("tests_here", "/payload/tree/tests/integration/runtime_cgroups"))
    run.chmod(0o755)


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.timeout(TIMEOUT_S + 60)
def test_the_contracts_hold_on_version_2(tmp_path: Path) -> None:
    tool = _tool()
    _payload(tmp_path)
    command = [tool, "--timeout", str(TIMEOUT_S), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 125:
        pytest.skip(f"the virtual machine did not start: {done.stdout[-500:]}{done.stderr[-500:]}")
    assert done.returncode == 0, done.stdout + done.stderr
