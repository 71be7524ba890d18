"""A project of two services with the real Docker Compose: what its state, order and names rest on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import missing
from tests.lab.engine import Engine

pytestmark = pytest.mark.root

COMPOSE = Path(sys.executable).with_name("docker-compose")

PROJECT = """
name: shop
services:
  db:
    image: busybox
    command: ["sh", "-c", "echo kept >> /data/page; sleep 0.5; touch /ready; exec httpd -f -p 80 -h /data"]
    volumes: [data:/data]
    healthcheck: {test: ["CMD", "test", "-e", "/ready"], interval: 200ms, timeout: 2s, retries: 20}
    networks:
      back: {aliases: [store]}
    stop_signal: SIGKILL
  web:
    image: busybox
    command: ["sh", "-c", "wget -qO /www/index.html http://store/page; echo up by $$WHO; exec httpd -f -p 8080 -h /www"]
    tmpfs: [/www]
    environment: [WHO=compose]
    depends_on: {db: {condition: service_healthy}}
    ports: ["127.0.0.1:18080:8080"]
    networks: [front, back]
    stop_signal: SIGKILL
    deploy: {resources: {limits: {memory: 32M}}}
    secrets: [token]
    configs: [{source: motd, target: /etc/motd}]
  job:
    image: busybox
    command: ["wget", "-qO", "-", "http://web:8080"]
    profiles: [extra]
    networks: [front]
configs: {motd: {content: "hello"}}
secrets: {token: {file: ./token}}
volumes: {data: {}}
networks:
  front: {}
  back: {internal: true, ipam: {config: [{subnet: 10.77.0.0/24}]}}
"""


class Project:
    def __init__(self, engine: Engine, directory: Path) -> None:
        self.engine = engine
        self._directory = directory
        (directory / "compose.yaml").write_text(PROJECT)
        (directory / "token").write_text("secret\n")

    def __call__(self, *arguments: str, code: int = 0) -> str:
        result = subprocess.run(
            [COMPOSE, "--ansi", "never", *arguments], cwd=self._directory, env=self.engine.environment,
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert result.returncode == code, result.stderr
        return result.stdout

    def page(self) -> str:
        return self.engine.inside("busybox", "wget", "-qO", "-", "http://127.0.0.1:18080/").stdout


@pytest.fixture
def project(engine: Engine, tmp_path: Path) -> Iterator[Project]:
    if not COMPOSE.is_file():
        missing("docker-compose")
    one = Project(engine, tmp_path)
    yield one
    one("down", "-v", "--remove-orphans", "-t", "0")


def test_a_project(project: Project) -> None:
    # Only a healthy store has the page that web copies at its start, by its alias.
    project("up", "-d", "--wait")
    assert project.page() == "kept\n"
    assert project("ps", "--format", "{{.Service}} {{.State}} {{.Health}}").splitlines() == [
        "db running healthy",
        "web running ",
    ]
    assert project("logs", "--no-log-prefix", "web") == "up by compose\n"
    assert project("port", "web", "8080") == "127.0.0.1:18080\n"
    assert project("exec", "-T", "web", "cat", "/etc/motd", "/run/secrets/token") == "hellosecret\n"
    project("exec", "-T", "web", "sh", "-c", "exit 7", code=7)
    assert project("run", "--rm", "job") == "kept\n"

    project("restart", "-t", "0", "web")
    assert project("logs", "--no-log-prefix", "web") == "up by compose\n" * 2

    project("up", "-d", "--scale", "db=2", "--no-recreate", "--wait")
    assert sorted(project("ps", "db", "--format", "{{.Name}}").split()) == ["shop-db-1", "shop-db-2"]
    project("up", "-d", "--scale", "db=1")
    assert project("ps", "db", "--format", "{{.Name}}").split() == ["shop-db-1"]

    before = project("ps", "-q")
    project("up", "-d")
    assert project("ps", "-q") == before  # nothing changed, so nothing is made anew
    project("stop", "-t", "0")
    assert project("ps", "-a", "--format", "{{.Service}} {{.State}} {{.ExitCode}}").splitlines() == [
        "db exited 137",
        "web exited 137",
    ]
    project("start")
    project("up", "-d", "--force-recreate", "--wait")
    assert project.page().startswith("kept\nkept\n")  # the volume is the same one
    project("down")
    assert project.engine.docker("volume", "ls", "-q").stdout == "shop_data\n"
    project("down", "-v")
    assert project.engine.docker("volume", "ls", "-q").stdout == ""
    assert "shop" not in project.engine.docker("network", "ls").stdout
