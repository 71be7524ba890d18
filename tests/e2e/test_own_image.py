"""The image of the services, built by the engine itself: `deploy/Dockerfile` as it is, with the machine's own packages.

Debian's packages come through a proxy, Python's from an index of what the machine can get; both live in the engine's
network namespace.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.e2e.conftest import require_root
from tests.lab.debian import debian_image
from tests.lab.engine import ROOT, Engine
from tests.lab.netns import NetworkNamespace
from tests.lab.proxy import listening_socket, web_proxy

pytestmark = [pytest.mark.root, pytest.mark.slow]
IN_THE_IMAGE = ("cli", "services", "shared", "migrations", "deploy", "pyproject.toml", "requirements.lock")


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    require_root()
    with Engine() as one:
        debian_image(one)
        one.docker("tag", "debian-lab", "debian:bookworm-slim")
        yield one


def simple_index(directory: Path) -> None:
    """What the lock file names, fetched as the machine fetches, in the layout of PEP 503."""
    wheels = directory / "wheels"
    lock = ROOT / "requirements.lock"
    program = shutil.which("python3.11") or sys.executable
    done = subprocess.run(
        [program, "-m", "pip", "download", "-q", "--no-deps", "--require-hashes", "-r", str(lock), "-d", str(wheels)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        pytest.skip(f"the locked packages cannot be had here: {done.stderr[-300:]}")
    for wheel in wheels.iterdir():
        name = re.sub(r"[-_.]+", "-", wheel.name.partition("-")[0]).lower()
        page = directory / "simple" / name
        page.mkdir(parents=True, exist_ok=True)
        (page / "index.html").write_text(f'<a href="/wheels/{wheel.name}">{wheel.name}</a>')


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def served(directory: Path, namespace: NetworkNamespace) -> Iterator[str]:
    listener = listening_socket(namespace)
    server = ThreadingHTTPServer(
        listener.getsockname(), partial(_Quiet, directory=str(directory)), bind_and_activate=False
    )
    server.socket.close()
    server.socket = listener
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/simple"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.timeout(1500)
def test_the_image_of_the_services(engine: Engine, tmp_path: Path) -> None:
    simple_index(tmp_path / "index")
    context = tmp_path / "context"
    context.mkdir()
    for name in IN_THE_IMAGE:
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, context / name)
    with web_proxy(engine.netns) as proxy, served(tmp_path / "index", engine.netns) as index:
        arguments = [f"http_proxy={proxy}", "no_proxy=127.0.0.1", f"PIP_INDEX_URL={index}"]
        result = subprocess.run(
            ["docker", "build", "--network", "host", "-t", "davit:dev", "-f", "deploy/Dockerfile",
             *[word for one in arguments for word in ("--build-arg", one)], "."],
            cwd=context, env=engine.environment | {"DOCKER_BUILDKIT": "0"}, capture_output=True, text=True,
            check=False, timeout=1200,
        )  # fmt: skip
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]
    assert engine.docker("run", "--rm", "davit:dev", "davit", "version").stdout.startswith("davit ")
    # A whole engine in a container: all services start and answer, without an agent, which would need the host.
    script = (
        "davit up --detach --services image,network,volume,control,api --data-root /d --run-dir /r"
        " && python -c \"import socket; s=socket.socket(socket.AF_UNIX); s.connect('/r/docker.sock');"
        " s.sendall(b'GET /_ping HTTP/1.0\\r\\n\\r\\n'); print(s.recv(99).split()[1].decode())\""
        "; davit down --run-dir /r"
    )
    told = engine.docker("run", "--rm", "davit:dev", "sh", "-c", script, check=False, timeout_s=90)
    assert "200" in told.stdout.split(), told.stdout + told.stderr
    for service in ("api", "image", "network", "volume", "executor.control", "executor.agent"):
        result = engine.docker("run", "--rm", "davit:dev", "python", "-c", f"import services.{service}.__main__")
        assert result.stderr == ""
