"""Builds while engine processes are killed: what can go on does, and nothing is left of what cannot."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import require_root
from tests.lab.engine import Engine, eventually

DOCKERFILE = "FROM busybox\nRUN echo begun; sleep 3; echo done > /f\nRUN cat /f\n"


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    require_root()
    with Engine() as one:
        one.import_busybox()
        yield one


def begin(engine: Engine, path: Path) -> subprocess.Popen[bytes]:
    """A build whose first command has begun."""
    (path / "Dockerfile").write_text(DOCKERFILE)
    process = subprocess.Popen(
        ["docker", "build", "--no-cache", str(path)],
        env=engine.environment | {"DOCKER_BUILDKIT": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout is not None
    while process.stdout.readline() != b"begun\n":
        assert process.poll() is None
    return process


@pytest.mark.parametrize("service", ["control", "network", "volume"])
def test_build_survives_the_services_it_asks(engine: Engine, tmp_path: Path, service: str) -> None:
    process = begin(engine, tmp_path)
    engine.kill(service)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert b"done\n" in output
    eventually(lambda: engine.docker("ps", "-aq").stdout == "", 10, "the build's containers to go")


def test_builder_that_is_killed_leaves_nothing(engine: Engine, tmp_path: Path) -> None:
    process = begin(engine, tmp_path)
    engine.kill("image")
    process.communicate(timeout=60)
    assert process.returncode != 0
    eventually(lambda: engine.docker("ps", "-aq").stdout == "", 20, "the build's container to go")
    assert list((engine.data / "build" / "tmp").iterdir()) == []
    again = begin(engine, tmp_path)
    output, _ = again.communicate(timeout=60)
    assert again.returncode == 0, output
