"""The audit log of a real engine, from requests to readers, deliveries and proofs."""

from __future__ import annotations

import base64
import http.server
import json
import os
import queue
import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from standardwebhooks.webhooks import Webhook

from tests.e2e.conftest import require_root
from tests.lab.engine import DAVIT, Engine, eventually
from tests.lab.netns import run

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

SECRET = base64.b64encode(secrets.token_bytes(24)).decode()


class Receiver(http.server.BaseHTTPRequestHandler):
    """A webhook that first does not agree, then is busy, then takes what comes."""

    batches: ClassVar[queue.Queue[list[Any]]] = queue.Queue()
    answers: ClassVar[list[int]] = [429, 500]
    asked: ClassVar[list[str]] = []

    def do_OPTIONS(self) -> None:
        self.asked.append(self.headers["WebHook-Request-Origin"])
        self.send_response(200)
        if len(self.asked) > 1:
            self.send_header("WebHook-Allowed-Origin", self.asked[-1])
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status = self.answers.pop(0) if self.answers else 200
        if status == 200:
            Webhook(SECRET).verify(body, dict(self.headers.items()))
            assert self.headers["Content-Type"] == "application/cloudevents-batch+json"
            self.batches.put(json.loads(body))
        self.send_response(status)
        if status == 429:
            self.send_header("Retry-After", "1")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Nobody reads it."""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    require_root()
    directory = tmp_path_factory.mktemp("audit")
    (directory / "secret").write_text(SECRET)
    one = Engine()
    one.netns.__enter__()
    listener = inside(one, lambda: socket.create_server(("127.0.0.1", 0)))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver, bind_and_activate=False)
    server.socket.close()
    server.socket = listener
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sinks = [
        {"name": "lines", "type": "file", "path": str(directory / "audit.jsonl")},
        {"name": "ocsf", "type": "file", "path": str(directory / "audit.ocsf"), "format": "ocsf"},
        {"name": "hook", "type": "webhook", "url": f"http://127.0.0.1:{listener.getsockname()[1]}/"}
        | {"secret-file": str(directory / "secret")},
        {"name": "bus", "type": "nats"},
    ]
    one._environment["DAVIT_AUDIT_SINKS"] = json.dumps(sinks)
    one._environment["TEST_AUDIT_DIRECTORY"] = str(directory)
    try:
        one.up()
        one.import_busybox()
        yield one
    finally:
        server.shutdown()
        server.server_close()
        one.close()


def inside(engine: Engine, work: Callable[[], Any]) -> Any:
    """Do something in the engine's network namespace, in a thread that ends with it."""
    result: list[Any] = []

    def there() -> None:
        descriptor = os.open(f"/run/netns/{engine.netns.name}", os.O_RDONLY)
        import ctypes

        assert ctypes.CDLL(None).setns(descriptor, 0) == 0
        os.close(descriptor)
        result.append(work())

    thread = threading.Thread(target=there)
    thread.start()
    thread.join()
    return result[0]


def audit(engine: Engine, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return run(*engine.netns.enter, str(DAVIT), "audit", *words, check=check, env=engine.environment)


def records(engine: Engine) -> list[dict[str, Any]]:
    return [json.loads(line) for line in audit(engine, "tail", "--from", "0", "--json").stdout.splitlines()]


def find(engine: Engine, **wanted: Any) -> list[dict[str, Any]]:
    def fits(record: dict[str, Any]) -> bool:
        action = record.get("action") or {}
        return all((action | record).get(key) == value for key, value in wanted.items())

    return [record for record in records(engine) if fits(record)]


def test_a_container_that_was_made_is_in_the_log_with_who_asked_and_what_changed(engine: Engine) -> None:
    made = engine.docker("run", "-d", "--name", "web", "-e", "TOKEN=plantedsecret", "busybox", "sleep", "300").stdout
    received = eventually(lambda: find(engine, kind="received", verb="create", object="web"), 10)[0]
    complete = eventually(lambda: find(engine, kind="complete", verb="create", object="web"), 10)[0]
    assert received["number"] < complete["number"]
    assert received["actor"]["name"] == "uid:0"
    assert received["actor"]["exe"].endswith("docker")
    assert received["asked"]["body"]["Env"] == ["TOKEN=***"]
    assert complete["outcome"]["status"] == 201
    assert complete["changed"] == [{"type": "container", "action": "create", "id": made.strip()}]
    started = eventually(lambda: find(engine, kind="complete", verb="start", object=made.strip()), 10)[0]
    assert {"type": "container", "action": "start", "id": made.strip()} in started["changed"]


def test_an_exec_is_a_session_with_its_bytes(engine: Engine) -> None:
    engine.docker("exec", "-i", "web", "cat", stdin="some input")
    end = eventually(lambda: find(engine, kind="end", resource="exec"), 10)[-1]
    assert end["session"]["received_bytes"] == len("some input")
    assert end["session"]["sent_bytes"] == len("some input") + 8
    begin = find(engine, kind="begin", request=end["request"])[0]
    assert begin["number"] < end["number"]


CLIENT = """
import os, socket, sys
for line in open(f"/proc/{sys.argv[1]}/cgroup"):
    number, controllers, path = line.strip().split(":", 2)
    place = f"/sys/fs/cgroup/{controllers.removeprefix('name=')}{path}/cgroup.procs"
    if os.path.exists(place):
        open(place, "w").write(str(os.getpid()))
client = socket.socket(socket.AF_UNIX)
client.connect(sys.argv[2])
client.sendall(b"GET /containers/json?limit=77 HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n")
while client.recv(4096):
    pass
"""


def test_a_client_in_a_container_is_known_by_its_container(engine: Engine) -> None:
    made = engine.docker("inspect", "-f", "{{.Id}} {{.State.Pid}}", "web").stdout.split()
    run(sys.executable, "-c", CLIENT, made[1], str(engine.socket))
    found = eventually(lambda: [one for one in find(engine, verb="list") if "container" in one["actor"]], 10)
    assert found[0]["actor"]["container"] == made[0]


def test_refused_requests_are_in_the_log(engine: Engine) -> None:
    engine.docker("start", "nobody", check=False)
    complete = eventually(lambda: find(engine, kind="complete", object="nobody"), 10)[0]
    assert complete["outcome"]["status"] == 404
    assert complete["outcome"]["error"] == "No such container: nobody"


def test_the_engines_own_restarts_are_in_the_log(engine: Engine) -> None:
    made = engine.docker("run", "-d", "--restart", "on-failure:1", "busybox", "sh", "-c", "exit 4").stdout.strip()
    own = eventually(lambda: find(engine, kind="engine", verb="start", object=made), 20)[0]
    assert own["actor"]["name"].startswith("system:")
    assert own["cause"] == "restart policy on-failure: it ended with exit code 4"
    engine.docker("run", "--rm", "busybox", "true")
    removed = eventually(lambda: find(engine, kind="engine", verb="destroy"), 10)[0]
    assert removed["cause"] == "it has ended and was to be removed then"


def test_numbers_have_no_gap_and_sources_neither(engine: Engine) -> None:
    found = records(engine)
    assert [record["number"] for record in found] == list(range(len(found)))
    edge = [record["source"] for record in found if record["source"]["id"].startswith("api-")]
    assert [source["sequence"] for source in edge] == list(range(1, len(edge) + 1))


def test_no_secret_is_in_any_file_of_the_log(engine: Engine) -> None:
    password = "plantedpassword"
    login = json.dumps({"username": "me", "password": password, "serveraddress": "127.0.0.1:1"})
    auth = base64.urlsafe_b64encode(login.encode()).decode()
    request = (
        f"POST /images/create?fromImage=127.0.0.1:1/none HTTP/1.1\r\nHost: x\r\nX-Registry-Auth: {auth}\r\n"
        f"Connection: close\r\n\r\nPOST"
    )
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(engine.socket))
        client.sendall(request.encode())
        while client.recv(4096):
            pass
    eventually(lambda: find(engine, kind="complete", verb="pull", object="127.0.0.1:1/none"), 20)
    for path in (engine.data / "audit").rglob("*"):
        if path.is_file() and path.name != "key.pem":
            data = path.read_bytes()
            assert b"plantedsecret" not in data, path
            assert password.encode() not in data, path
            assert auth.encode() not in data, path


def test_followers_get_records_in_both_forms_and_go_on_where_they_were(engine: Engine) -> None:
    size = len(records(engine))
    for accept, begin in (("*/*", b"{"), ("text/event-stream", b"id: ")):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(engine.socket))
            head = f"GET /audit?from={size - 2} HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\n\r\n"
            client.sendall(head.encode())
            client.settimeout(10)
            data = b""
            engine.docker("version")
            engine.docker("inspect", f"unknown-{accept[:1]}", check=False)
            while b"unknown-" not in data:
                data += client.recv(65536)
            body = data.partition(b"\r\n\r\n")[2].partition(b"\r\n")[2]
            assert body.startswith(begin), body[:100]
            assert b'"number":%d' % (size - 2) in body


def test_the_log_is_proved_and_a_changed_byte_in_an_export_is_found(engine: Engine, tmp_path: Path) -> None:
    eventually(lambda: "are what was signed" in audit(engine, "verify").stdout, 20)
    shown = eventually(lambda: _proved(engine, 5), 20)
    assert json.loads(shown)["number"] == 5
    audit(engine, "export", "-o", str(tmp_path / "log.jsonl"))
    text = (tmp_path / "log.jsonl").read_text()
    assert audit(engine, "verify", "--file", str(tmp_path / "log.jsonl")).returncode == 0
    (tmp_path / "log.jsonl").write_text(text.replace('"object":"web"', '"object":"wub"', 1))
    found = audit(engine, "verify", "--file", str(tmp_path / "log.jsonl"), check=False)
    assert found.returncode == 1
    number = next(json.loads(line)["number"] for line in text.splitlines() if '"object":"web"' in line)
    assert f"record {number} was changed" in found.stdout


def _proved(engine: Engine, number: int) -> str:
    shown = audit(engine, "show", str(number))
    return shown.stdout if "proved" in shown.stderr else ""


def test_files_have_every_record_in_their_form(engine: Engine) -> None:
    directory = Path(engine.environment["TEST_AUDIT_DIRECTORY"])
    size = len(records(engine))

    def delivered(name: str) -> list[str]:
        lines = (directory / name).read_text().splitlines()
        return lines if len(lines) >= size else []

    lines = eventually(lambda: delivered("audit.jsonl"), 20)
    assert [json.loads(line)["number"] for line in lines[:size]] == list(range(size))
    events = [json.loads(line) for line in eventually(lambda: delivered("audit.ocsf"), 30)]
    assert {event["class_uid"] for event in events} == {6003}
    create = next(event for event in events if event["api"]["operation"] == "container.create")
    assert create["activity_id"] == 1
    assert create["actor"]["user"]["name"] == "root"


def test_a_webhook_that_refused_first_gets_all_of_it_signed_and_in_order(engine: Engine) -> None:
    size = len(records(engine))
    got: list[int] = []
    while len(got) < size:
        batch = Receiver.batches.get(timeout=30)
        assert {event["specversion"] for event in batch} == {"1.0"}
        got += [event["data"]["number"] for event in batch]
    assert got[:size] == list(range(size))
    assert Receiver.asked[0].endswith("/audit")
    states = json.loads(audit(engine, "sinks", "--json").stdout)
    hook = next(state for state in states if state["Name"] == "hook")
    assert (hook["Failures"], hook["Problem"]) == (0, "")


def test_an_auditor_reads_the_stream_with_credentials_of_its_own_and_nothing_else(engine: Engine) -> None:
    password = json.loads((engine.data / "nats" / "users.json").read_text())["auditor"]
    script = Path(__file__).with_name("auditor.py")
    shown = run(*engine.netns.enter, sys.executable, str(script), engine.nats_url(), password, check=True)
    result = json.loads(shown.stdout)
    assert result["numbers"] == list(range(len(result["numbers"])))
    assert len(result["numbers"]) > 10
    assert result["refused"]


def test_configuration_is_read_anew_and_said_in_the_log(engine: Engine) -> None:
    engine.kill("supervisor", 1)
    reloaded = eventually(lambda: find(engine, kind="engine", resource="audit", verb="reload"), 10)
    assert reloaded[0]["details"]["sinks"] == ["bus", "hook", "lines", "ocsf"]
