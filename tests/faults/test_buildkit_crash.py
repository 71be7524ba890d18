"""Builds through BuildKit's protocol while processes are killed: nothing is left, and the next build goes on."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import require_root
from tests.e2e.test_build import context
from tests.lab.buildx import install_plugin
from tests.lab.engine import Engine, eventually

TEXT = "FROM busybox\nCOPY files /files\nRUN echo first > /first\nRUN : NAME; echo begun; sleep 4; echo done\n"


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    require_root()
    with Engine() as one:
        if not install_plugin(one.base / "docker"):
            pytest.fail("buildx cannot be had from Debian's packages")
        one.import_busybox()
        yield one


def begin(engine: Engine, path: Path, *, until: str = " begun\n") -> subprocess.Popen[str]:
    """A build that has come so far. The output of the client is on its standard error."""
    process = subprocess.Popen(
        ["docker", "build", "--progress", "plain", str(path)],
        env=engine.environment, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stderr is not None
    told = ""
    while until not in told:
        line = process.stderr.readline()
        assert line, told
        told += line
    return process


def children(pid: int) -> list[int]:
    """The plugin that speaks for the client is a process of its own."""
    return [
        int(word) for task in Path(f"/proc/{pid}/task").iterdir() for word in (task / "children").read_text().split()
    ]


def nothing_is_left(engine: Engine) -> None:
    eventually(lambda: engine.docker("ps", "-aq").stdout == "", 30, "the build's containers to go")
    eventually(lambda: not list((engine.data / "build/tmp").iterdir()), 30, "the build's directory to go")
    eventually(lambda: not list((engine.run_dir / "build").iterdir()), 30, "the build's secrets to go")


def the_next_build_goes_on(engine: Engine, where: Path) -> None:
    again = begin(engine, where)
    _, told = again.communicate(timeout=60)
    assert again.returncode == 0, told
    nothing_is_left(engine)


def files(tmp_path: Path, name: str) -> Path:
    return context(tmp_path / "c", TEXT.replace("NAME", name), {f"files/{n}": "x" * 9000 for n in range(50)})


@pytest.mark.parametrize("victim", ["builds", "api", "client", "supervisor"])
def test_a_build_whose_way_to_its_client_is_cut(engine: Engine, tmp_path: Path, victim: str) -> None:
    where = files(tmp_path, victim)
    process = begin(engine, where)
    if victim == "client":
        for pid in [*children(process.pid), process.pid]:
            os.kill(pid, signal.SIGKILL)
    else:
        engine.kill(victim)
    process.communicate(timeout=60)
    assert process.returncode != 0
    if victim == "supervisor":
        eventually(lambda: engine.docker("version", check=False).returncode == 0, 30, "the engine to be back")
    nothing_is_left(engine)
    the_next_build_goes_on(engine, where)


@pytest.mark.parametrize("victim", ["image", "control", "network"])
def test_a_build_survives_what_it_asks(engine: Engine, tmp_path: Path, victim: str) -> None:
    process = begin(engine, files(tmp_path, victim))
    engine.kill(victim)
    _, told = process.communicate(timeout=90)
    assert process.returncode == 0, told
    assert " done" in told
    nothing_is_left(engine)


def test_a_transfer_that_is_cut_short(engine: Engine, tmp_path: Path) -> None:
    where = context(tmp_path / "c", "FROM scratch\nCOPY . /\n", {f"f{n}": "y" * 100_000 for n in range(600)})
    small = context(tmp_path / "s", "FROM scratch\nCOPY Dockerfile /\n")
    subprocess.run(["docker", "build", "-q", str(small)], env=engine.environment, check=True, capture_output=True)
    victim = engine.pids()["builds"]
    before = {path.parent for path in received(engine)}
    process = subprocess.Popen(
        ["docker", "build", str(where)], env=engine.environment, stderr=subprocess.PIPE, start_new_session=True
    )
    eventually(lambda: sum(path.parent not in before for path in received(engine)) > 20, 20, "files to arrive")
    os.kill(victim, signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert sum(path.parent not in before for path in received(engine)) < 601
    nothing_is_left(engine)
    built = subprocess.run(
        ["docker", "build", "-q", str(where)], env=engine.environment, capture_output=True, text=True, check=True
    )
    size = engine.docker("image", "inspect", "--format", "{{.Size}}", built.stdout.strip()).stdout
    assert int(size) >= 600 * 100_000


def received(engine: Engine) -> list[Path]:
    return list((engine.data / "build/contexts").glob("*/*/files/*"))
