"""The reference engine and davit side by side, prepared alike, and a client that asks both the same."""

from __future__ import annotations

import http.client
import os
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest

from tests.lab.engine import Engine
from tests.lab.reference import ReferenceEngine

VERSION = "v1.41"  # the newest that both speak
TIMEOUT_S = 20.0


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(self._path)


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    @property
    def message(self) -> str:
        return str(self.json["message"])


@dataclass(frozen=True)
class Question:
    """One request. headers: None is JSON when there is a body."""

    method: str
    path: str
    body: str | None = None
    headers: dict[str, str] | None = field(default=None, hash=False)

    def __str__(self) -> str:
        return f"{self.method} {self.path} {self.body or ''}".strip()


class Asked:
    """An engine that questions are put to."""

    def __init__(self, engine: Engine | ReferenceEngine) -> None:
        self.engine = engine
        self._path = engine.url.removeprefix("unix://")

    def ask(self, question: Question, *, version: str = VERSION) -> Answer:
        headers = question.headers
        if headers is None:
            headers = {"Content-Type": "application/json"} if question.body is not None else {}
        connection = UnixConnection(self._path)
        try:
            body = None if question.body is None else question.body.encode()
            connection.request(question.method, f"/{version}{question.path}", body, headers)
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, found, response.read())
        finally:
            connection.close()

    def prepare(self) -> None:
        """What the questions are about: containers `probe` (running) and `made` (created), a volume, a network."""
        docker = self.engine.docker
        self.engine.import_busybox()
        docker("network", "create", "net")
        docker("volume", "create", "--label", "a=b", "vol")
        mounts = ("-v", "vol:/data", "-v", "/tmp:/host:ro", "--tmpfs", "/x")
        docker(
            "run", "-d", "--name", "probe", "--label", "a=b", "-p", "127.0.0.1::80", *mounts, "busybox", "sleep", "9999"
        )
        docker("run", "-d", "--name", "netted", "--network", "net", "busybox", "sleep", "9999")
        docker("create", "--name", "made", "busybox", "true")
        docker("run", "--name", "ended", "busybox", "sh", "-c", "echo out; exit 3", check=False)


def require_both() -> None:
    missing = [
        what
        for what, there in (
            ("root", os.geteuid() == 0),
            ("docker", shutil.which("docker")),
            ("dockerd", ReferenceEngine.available()),
        )
        if not there
    ]
    if missing:
        text = f"conformance tests need {', '.join(missing)}"
        if os.environ.get("CI"):
            pytest.fail(text)
        pytest.skip(text)


@pytest.fixture(scope="session")
def reference() -> Iterator[Asked]:
    require_both()
    with ReferenceEngine() as engine:
        asked = Asked(engine)
        asked.prepare()
        yield asked


@pytest.fixture(scope="session")
def davit() -> Iterator[Asked]:
    require_both()
    with Engine() as engine:
        asked = Asked(engine)
        asked.prepare()
        yield asked
