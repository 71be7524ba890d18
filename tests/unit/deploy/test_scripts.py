"""The scripts of a first contact: what they link, and what they refuse."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SCRIPTS = sorted((ROOT / "deploy").glob("*.sh"))


def link(command: Path, path: Path) -> subprocess.CompletedProcess[str]:
    script = f'set -euo pipefail; . {ROOT}/deploy/links.sh; link_command "$1" "$2"'
    return subprocess.run(
        ["bash", "-c", script, "bash", str(command), str(path)], capture_output=True, text=True, check=True
    )


def test_a_link_to_the_command_is_made_once(tmp_path: Path) -> None:
    assert f"command: {tmp_path}/davit" in link(tmp_path / "venv", tmp_path / "davit").stdout
    assert os.readlink(tmp_path / "davit") == str(tmp_path / "venv")
    assert link(tmp_path / "venv", tmp_path / "davit").stdout == ""


@pytest.mark.parametrize("kind", ["file", "other link"])
def test_what_has_the_name_already_stays(tmp_path: Path, kind: str) -> None:
    if kind == "file":
        (tmp_path / "davit").write_text("mine")
    else:
        (tmp_path / "davit").symlink_to(tmp_path / "elsewhere")
    assert "left as it is" in link(tmp_path / "venv", tmp_path / "davit").stderr
    if kind == "file":
        assert (tmp_path / "davit").read_text() == "mine"
    else:
        assert os.readlink(tmp_path / "davit") == str(tmp_path / "elsewhere")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_can_be_read(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)


@pytest.mark.parametrize("name", ["install.sh", "quickstart.sh"])
def test_a_wrong_option_is_answered_with_all_there_are(name: str) -> None:
    done = subprocess.run([ROOT / "deploy" / name, "--nonsense"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--bin" in done.stdout
    assert "--no-bin" in done.stdout
