"""SIGHUP to the engine: what can change while it runs does, in every service; a wrong file changes nothing."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import missing
from tests.lab.engine import Engine, eventually

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "daemon.json"
    path.write_text('{"labels": ["a=1"]}')
    return path


@pytest.fixture
def engine(file: Path) -> Iterator[Engine]:
    if os.geteuid() != 0:
        missing("root")
    with Engine("--config-file", str(file)) as running:
        yield running


def info(engine: Engine) -> dict[str, Any]:
    shown: dict[str, Any] = json.loads(engine.docker("info", "--format", "{{json .}}").stdout)
    return shown


def test_what_can_change_does(engine: Engine, file: Path) -> None:
    assert (info(engine)["Labels"], info(engine)["Debug"]) == (["a=1"], False)
    pids = engine.pids()
    file.write_text('{"labels": ["b=2"], "debug": true, "registry-mirrors": ["http://127.0.0.1:1"]}')
    os.kill(pids["guardian"], signal.SIGHUP)
    eventually(lambda: info(engine)["Labels"] == ["b=2"], what="the new label")
    shown = info(engine)
    assert shown["Debug"] is True
    assert shown["RegistryConfig"]["Mirrors"] == ["http://127.0.0.1:1"]
    # The image service asks the mirror now, and says so.
    refused = engine.docker("pull", "nosuch", check=False)
    assert refused.returncode == 1
    assert "DEBUG" in (engine.data / "engine.log").read_text().upper()

    file.write_text('{"labels": ["c=3"], "nosuch-key": 1}')
    os.kill(pids["guardian"], signal.SIGHUP)
    eventually(lambda: "nosuch-key" in (engine.data / "engine.log").read_text(), what="the refusal in the log")
    assert info(engine)["Labels"] == ["b=2"]
    assert engine.pids() == pids
