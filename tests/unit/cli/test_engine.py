"""Which engine a command means."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.__main__ import main
from cli.common.engine import Engine
from shared.docker.client import EngineClient
from shared.errors import InvalidArgument
from supervisor.state import EngineState


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DOCKER_HOST", "DAVIT_RUN_DIR", "DAVIT_CONFIG_FILE", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"):
        monkeypatch.delenv(name, raising=False)


def test_the_command_line_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://there:2375")
    monkeypatch.setenv("DAVIT_RUN_DIR", "/elsewhere")
    assert Engine(None, None).host == "tcp://there:2375"
    assert Engine("/r", None).host == "unix:///r/docker.sock"
    assert Engine(None, "unix:///s").host == "unix:///s"
    monkeypatch.delenv("DOCKER_HOST")
    assert Engine(None, None).host == "unix:///elsewhere/docker.sock"
    assert Engine(None, None).run_dir == Path("/elsewhere")


def test_a_configuration_file_names_the_run_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "daemon.json").write_text('{"run-dir": "/of/file"}')
    monkeypatch.setenv("DAVIT_CONFIG_FILE", str(tmp_path / "daemon.json"))
    assert Engine(None, None).run_dir == Path("/of/file")


def test_a_socket_leads_to_its_run_directory_also_through_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "spec.json").write_text("{}")
    (run / "docker.sock").touch()
    (tmp_path / "link.sock").symlink_to(run / "docker.sock")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/link.sock")
    assert Engine(None, None).run_dir == run


def test_an_address_that_leads_nowhere_is_refused_by_what_needs_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DAVIT_RUN_DIR", str(tmp_path))
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    assert (main(["status"]), main(["down"])) == (1, 1)
    assert "--run-dir" in capfd.readouterr().err
    # unless it is where the engine of this machine says that it listens
    EngineState(hosts=["tcp://127.0.0.1:1"]).write(tmp_path)
    assert Engine(None, None).run_dir == tmp_path


@pytest.mark.parametrize("host", ["ssh://there", "/run/docker.sock", "tcp://", "unix://"])
def test_an_address_of_another_kind_is_named(host: str) -> None:
    with pytest.raises(InvalidArgument, match=host):
        EngineClient(host)


class _Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps([{"path": self.path}]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def tcp() -> Iterator[str]:
    with http.server.HTTPServer(("127.0.0.1", 0), _Answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"tcp://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_an_engine_on_tcp_is_asked_there(tcp: str) -> None:
    assert EngineClient(tcp).get("/containers/json?all=1") == [{"path": "/containers/json?all=1"}]


def test_tls_without_certificates_says_where_it_looked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    monkeypatch.setenv("DOCKER_CERT_PATH", str(tmp_path))
    with pytest.raises(InvalidArgument, match=str(tmp_path)):
        EngineClient("tcp://127.0.0.1:1").get("/_ping")
