"""The files that start the services elsewhere than under `davit up`."""

from __future__ import annotations

import configparser
import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from shared.bus.health import SERVICES
from shared.config import EngineConfig
from shared.contracts.builds import socket_path
from supervisor.nats import find_binary
from tests.conftest import missing

ROOT = Path(__file__).parents[3]
UNITS = ROOT / "deploy" / "systemd"
INSTALLED_IN = "/opt/davit"
MODULES = {name: f"services.{name}" for name in ("api", "audit", "image", "network", "volume")} | {
    "control": "services.executor.control",
    "agent": "services.executor.agent",
}


def read(path: Path) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(path)
    return parser


@pytest.mark.parametrize("service", SERVICES)
def test_each_service_has_a_unit_that_runs_it(service: str) -> None:
    unit = read(UNITS / f"davit-{service}.service")
    module = MODULES[service]
    assert unit["Service"]["ExecStart"] == f"{INSTALLED_IN}/.venv/bin/python -m {module}"
    assert importlib.util.find_spec(f"{module}.__main__") is not None
    assert f"davit-{service}.service" in (UNITS / "davit.target").read_text()
    variables = re.findall(r"(DAVIT_\w+)=(\S+)", unit["Service"]["Environment"])
    keys = {name.removeprefix("DAVIT_").lower(): value for name, value in variables}
    assert set(keys) <= set(EngineConfig.model_fields)
    assert EngineConfig.load(dict(variables)).run_dir == Path("/run/davit")


def test_builds_are_served_by_a_process_that_a_socket_starts() -> None:
    listening, unit = read(UNITS / "davit-builds.socket"), read(UNITS / "davit-builds.service")
    assert Path(listening["Socket"]["ListenStream"]) == socket_path(Path("/run/davit"))
    assert listening["Socket"]["SocketMode"] == "0600"
    module = unit["Service"]["ExecStart"].rpartition(" -m ")[2]
    assert importlib.util.find_spec(f"{module}.__main__") is not None
    # It ends by itself when nobody builds, and is started again only when it was killed.
    assert unit["Service"]["Restart"] == "on-failure"
    assert "davit-builds.socket" in (UNITS / "davit.target").read_text()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_understands_every_unit(tmp_path: Path) -> None:
    for unit in [*UNITS.glob("*.service"), *UNITS.glob("*.socket"), UNITS / "davit.target"]:
        text = unit.read_text().replace(f"{INSTALLED_IN}/.venv/bin/python", sys.executable)
        (tmp_path / unit.name).write_text(text.replace(INSTALLED_IN, str(ROOT)))
    result = subprocess.run(
        ["systemd-analyze", "verify", "--recursive-errors=no", "--man=no", *map(str, sorted(tmp_path.iterdir()))],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    ours = [line for line in result.stderr.splitlines() if "davit" in line]
    assert (result.returncode, ours) == (0, []), result.stderr


@pytest.mark.parametrize("file", ["nats.conf", "systemd/nats.conf"])
def test_the_bus_understands_its_configuration(file: str, tmp_path: Path) -> None:
    config = tmp_path / "nats.conf"
    config.write_text(re.sub(r"store_dir: \S+", f"store_dir: {tmp_path}", (ROOT / "deploy" / file).read_text()))
    result = subprocess.run(
        [find_binary(), "-t", "-c", config], env={"BUS_PASSWORD": "a-B_c"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr


def test_the_image_has_the_packages_that_an_installation_has() -> None:
    packages = re.search(r"ENGINE_PACKAGES=\((.*?)\)", (ROOT / "deploy" / "packages.sh").read_text(), re.S)
    assert packages is not None
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    assert [name for name in packages[1].split() if name not in dockerfile.split()] == []


def test_compose_understands_the_development_file() -> None:
    program = Path(sys.executable).with_name("docker-compose")
    if not program.exists():
        missing("docker-compose")
    result = subprocess.run(
        [program, "-f", ROOT / "docker-compose.dev.yml", "config", "-q"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "")
