"""The units of deploy/systemd at work: in a virtual machine, with a container that outlives the restart of each."""

from __future__ import annotations

import compileall
import importlib.metadata
import py_compile
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab.engine import busybox_tar
from tests.lab.machine import ROOT, tool

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

TIMEOUT_S = 2100
PARTS = ("cli", "services", "shared", "migrations", "deploy")
RUN = """\
#!/bin/sh
cp -a /payload/davit /opt/davit
exec python3 /payload/unitscript.py 2>&1
"""


def _needed(name: str, found: set[str]) -> None:
    """The distributions that one needs at run time."""
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:  # for another platform, or not chosen
        return
    if distribution.metadata["Name"] in found:
        return
    found.add(distribution.metadata["Name"])
    for requirement in distribution.requires or []:
        if "extra ==" not in requirement or "asyncio" in requirement:
            _needed(re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0], found)


def _environment(target: Path) -> None:
    """A virtual environment on the machine's own interpreter, of the files of what is installed here."""
    found: set[str] = set()
    _needed("davit", found)
    packages = target / "lib/python3.11/site-packages"
    for name in found - {"davit"}:
        distribution = importlib.metadata.distribution(name)
        for file in distribution.files or []:
            source = Path(str(distribution.locate_file(file))).resolve()
            place = packages / file if ".." not in file.parts else target / "bin" / file.name
            if source.is_file() and source.suffix != ".pyc":
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, place)
    (target / "bin").mkdir(exist_ok=True)
    (target / "bin/python").symlink_to("/usr/bin/python3")
    (target / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")


def test_a_container_outlives_the_restart_of_each_unit(tmp_path: Path) -> None:
    program = tool()
    if sys.version_info[:2] != (3, 11):
        pytest.skip("the machine has Python 3.11, for which what is installed here is not")
    tree = tmp_path / "davit"
    for part in PARTS:
        shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
    _environment(tree / ".venv")
    # An emulated processor would take minutes to compile it all, in each service anew.
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    compileall.compile_dir(tree, quiet=2, workers=0, invalidation_mode=mode)
    busybox_tar(tmp_path / "busybox.tar")
    shutil.copy(ROOT / "tests/lab/unitscript.py", tmp_path)
    script = tmp_path / "run"
    script.write_text(RUN)
    script.chmod(0o755)
    command = [program, "--mem", "2048", "--timeout", str(TIMEOUT_S), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 125:
        pytest.skip(f"the virtual machine did not start: {done.stdout[-500:]}{done.stderr[-500:]}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all units kept their word" in done.stdout
