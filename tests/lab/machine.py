"""A virtual machine with cgroup v2 and systemd, to run tests in that the host cannot.

It is made by a tool, `cgroup2-vm DIR`, which runs DIR/run in the machine and passes its output and exit code on: found
in $DAVIT_CGROUP2_VM, on the PATH, or in shared/tools beside the repository.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# What the test runner consists of; all of it is plain Python.
PACKAGES = ("pytest", "_pytest", "pluggy", "iniconfig", "packaging", "pygments", "py")
TIMEOUT_S = 1500

RUN = """\
#!/bin/sh
cp /payload/busybox /bin/busybox
cd /payload
{exports}
export PYTHONPATH=/payload/tree:/payload/packages PYTHONDONTWRITEBYTECODE=1
exec python3 -m pytest -q --color=no -p no:cacheprovider -c /dev/null --rootdir /payload/tree \
    --import-mode=importlib -W ignore "$@" {selection} 2>&1
"""


def tool() -> str:
    """The program; skips the test without it."""
    candidates = (
        os.environ.get("DAVIT_CGROUP2_VM"),
        shutil.which("cgroup2-vm"),
        str(ROOT.parent / "shared" / "tools" / "cgroup2-vm"),
    )
    for candidate in candidates:
        if candidate and os.access(candidate, os.X_OK):
            return candidate
    pytest.skip("cgroup2-vm is not installed; see $DAVIT_CGROUP2_VM")


def run_tests(directory: Path, tests: str, selection: str = "", *, programs: Mapping[str, str] | None = None) -> str:
    """Run the tests in folder `tests` in the machine; they must pass. Answers what pytest printed.

    Args:
        directory: an empty one, for what is copied into the machine.
        selection: further words for pytest.
        programs: variable -> executable, which is copied, and there has its path in that variable.
    """
    program = tool()
    _payload(directory, tests, f"{selection} /payload/tree/{tests}", programs or {})
    command = [program, "--timeout", str(TIMEOUT_S), str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 125:
        pytest.skip(f"the virtual machine did not start: {done.stdout[-500:]}{done.stderr[-500:]}")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _payload(directory: Path, tests: str, selection: str, programs: Mapping[str, str]) -> None:
    """The runtime, the tests, pytest, a busybox, and the script that starts it."""
    tree = directory / "tree"
    ignore = shutil.ignore_patterns("__pycache__", "test_v2_machine.py", "test_under_*.py", "test_docker_*.py")
    for part in ("services/executor/runtime", tests):
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
            shutil.copytree(source.parent, packages / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, packages)
    shutil.copy(os.path.realpath("/bin/busybox"), directory / "busybox")
    run = directory / "run"
    exports = []
    for variable, path in programs.items():
        shutil.copy(path, directory)
        exports.append(f"export {variable}=/payload/{Path(path).name}")
    run.write_text(RUN.format(selection=selection, exports="\n".join(exports)))
    run.chmod(0o755)
