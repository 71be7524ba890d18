"""Builds while engine processes are killed: what can go on does, and nothing is left of what cannot."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import time
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


LONG = """\
FROM busybox AS one
COPY files /files
RUN cat /files/* > /all
WORKDIR /w
FROM busybox
COPY --from=one /all /
RUN --mount=type=cache,target=/cache echo x >> /cache/log && wc -c < /all > /size
ENV a=1
CMD ["cat", "/size"]
"""
ROUNDS = 10


def leftovers(engine: Engine) -> list[str]:
    """What an ended build must not leave."""
    staged = [name for name in os.listdir(engine.data / "layers") if name.startswith((".staged-", ".removed-"))]
    ingests = [name for name in os.listdir(engine.data / "images/ingest") if not name.endswith(".part")]
    builds = [*os.listdir(engine.data / "build" / "tmp"), *os.listdir(engine.run_dir / "build")]
    return [*staged, *ingests, *builds, *engine.docker("ps", "-aq").stdout.split()]


@pytest.mark.timeout(240)
def test_killed_again_and_again_a_build_goes_on_where_it_was(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    content = [os.urandom(50_000) for _ in range(40)]
    for number, data in enumerate(content):
        (tmp_path / "files" / f"{number:02}").write_bytes(data)
    (tmp_path / "Dockerfile").write_text(LONG)
    command = ["docker", "build", "-t", "looped", str(tmp_path)]
    environment = engine.environment | {"DOCKER_BUILDKIT": "0"}
    moments = random.Random(1)
    for number in range(ROUNDS):
        (tmp_path / "files" / "00").write_bytes(os.urandom(10_000))  # nothing is in the cache
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        time.sleep(0.1 + moments.random() * 1.2)
        engine.kill("image")
        process.communicate(timeout=60)
        eventually(lambda: not leftovers(engine), 30, f"an engine without leftovers after kill {number}")
    (tmp_path / "files" / "00").write_bytes(content[0])
    for blob in (engine.data / "images/blobs/sha256").iterdir():
        assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=60)
    assert engine.docker("run", "--rm", "looped").stdout == f"{sum(map(len, content))}\n"
    assert leftovers(engine) == []
