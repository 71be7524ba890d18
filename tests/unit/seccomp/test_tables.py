"""The script that makes the tables: what it writes is what the module has."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from services.executor.runtime.kernel.syscalls import numbers

SCRIPT = Path(__file__).parents[3] / "deploy/syscalls.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("syscalls_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tree(tmp_path: Path, script: ModuleType) -> Path:
    """Tables as a kernel's source has them, of the calls that the module knows."""
    rows: dict[str, list[str]] = {}
    for architecture, (path, abis) in script.TABLES.items():
        abi = {"x86_64": "64", "x32": "x32"}.get(architecture, min(abis))
        private = script.PRIVATE.get(architecture, {})
        rows.setdefault(path, ["# comment", ""]).extend(
            f"{number}\t{abi}\t{name}\tsys_{name}"
            for name, number in numbers(architecture).items()
            if name not in private
        )
    for path, lines in rows.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("\n".join(lines) + "\n")
    return tmp_path


def test_the_module_is_what_the_script_writes(script: ModuleType, tree: Path) -> None:
    found = script.tables(tree)
    assert {name: table == numbers(name) for name, table in found.items()} == dict.fromkeys(found, True)
    assert script.replaced(script.MODULE.read_text(), found) == script.MODULE.read_text()


def test_it_tells_what_is_new(tree: Path) -> None:
    table = tree / "arch/x86/entry/syscalls/syscall_32.tbl"
    table.write_text(table.read_text() + "999 i386 brand_new sys_brand_new sys_compat # soon\n")
    told = subprocess.run([sys.executable, str(SCRIPT), str(tree)], capture_output=True, text=True, check=False)
    assert (told.returncode, told.stdout) == (1, "x86: brand_new 999 is missing\n")
