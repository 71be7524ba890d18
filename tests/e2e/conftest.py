"""One engine per variant for the whole session: SQLite, and Postgres with two copies of every stateless service."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.engine import Engine
from tests.lab.pair import PostgresPair

VARIANTS = ("sqlite", "postgres-two-copies")


def require_root() -> None:
    """A laptop without root or client skips; continuous integration fails."""
    missing = [what for what, there in (("root", os.geteuid() == 0), ("docker", shutil.which("docker"))) if not there]
    if missing:
        if os.environ.get("CI"):
            pytest.fail(f"end-to-end tests need {', '.join(missing)}")
        pytest.skip(f"needs {', '.join(missing)}")


@pytest.fixture(scope="session", params=VARIANTS)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A running engine with busybox:latest."""
    require_root()
    if request.param == "sqlite":
        with Engine() as one:
            one.import_busybox()
            yield one
        return
    with PostgresPair() as pair:
        pair.engine.import_busybox()
        yield pair.engine


@pytest.fixture(autouse=True)
def no_containers(engine: Engine) -> Iterator[None]:
    """Each test begins and ends without containers and volumes."""
    yield
    ids = engine.docker("ps", "-aq").stdout.split()
    if ids:
        engine.docker("rm", "-f", "-v", *ids)
        names = engine.docker("volume", "ls", "-q").stdout.split()
        if names:
            engine.docker("volume", "rm", *names)


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """A directory with one page in it."""
    (tmp_path / "index.html").write_text("<h1>it works</h1>\n")
    return tmp_path
