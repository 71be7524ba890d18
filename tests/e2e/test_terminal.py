"""Leaving a terminal by its detach keys: the process goes on, and the events say so."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import docker
import pytest

from tests.lab.engine import Engine, eventually

pytestmark = pytest.mark.root

KEYS = b"\x10\x11"


@pytest.fixture
def api(engine: Engine) -> Iterator[docker.APIClient]:
    client = docker.APIClient(base_url=engine.url, version="auto", timeout=30)
    yield client
    client.close()


def until_closed(sock: object) -> bytes:
    data = b""
    raw = sock._sock  # type: ignore[attr-defined]
    raw.settimeout(10)
    while chunk := raw.recv(4096):
        data += chunk
    sock.close()  # type: ignore[attr-defined]
    raw.close()
    return data


def actions(engine: Engine, since: str) -> list[str]:
    lines = engine.docker("events", "--since", since, "--until", f"{time.time():.6f}", "--format", "{{json .}}").stdout
    return [json.loads(line)["Action"] for line in lines.splitlines()]


def test_of_a_container(engine: Engine, api: docker.APIClient) -> None:
    since = f"{time.time():.6f}"
    engine.docker("run", "-d", "-it", "--name", "box", "busybox", "sh")
    attached = api.attach_socket("box", params={"stdin": 1, "stdout": 1, "stream": 1})
    attached._sock.sendall(b"echo wo''rd\n")
    eventually(lambda: "word" in engine.docker("logs", "box").stdout, what="the echo")
    attached._sock.sendall(KEYS)
    until_closed(attached)
    eventually(lambda: "detach" in actions(engine, since), what="the event detach")
    assert engine.docker("inspect", "-f", "{{.State.Running}}", "box").stdout == "true\n"


@pytest.mark.parametrize("keys", ["", "ctrl-a,x"])
def test_of_an_exec(engine: Engine, api: docker.APIClient, keys: str) -> None:
    since = f"{time.time():.6f}"
    engine.docker("run", "-d", "--name", "box", "busybox", "sleep", "1000")
    exec_id = api.exec_create("box", ["sh", "-c", "sleep 4321"], stdin=True, tty=True, detach_keys=keys or None)["Id"]
    joined = api.exec_start(exec_id, tty=True, socket=True)
    joined._sock.sendall(b"\x01x" if keys else KEYS)
    until_closed(joined)
    eventually(lambda: "exec_detach" in actions(engine, since), what="the event exec_detach")
    assert api.exec_inspect(exec_id)["Running"]
    assert "sleep 4321" in engine.docker("top", "box").stdout


SIZES = ({"h": "70000", "w": "100"}, {"h": "-1", "w": "1"}, {"h": "24", "w": "4294967296"}, {"h": "24", "w": "65536"})


def test_a_size_that_no_terminal_has_is_refused_and_ends_nothing(engine: Engine, api: docker.APIClient) -> None:
    engine.docker("run", "-d", "-it", "--name", "box", "busybox", "sh")
    exec_id = api.exec_create("box", ["sleep", "4321"], tty=True)["Id"]
    api.exec_start(exec_id, tty=True, detach=True)
    for path in ("/containers/box/resize", f"/exec/{exec_id}/resize"):
        for size in SIZES:
            answer = api.post(api._url(path), params=size)
            assert answer.status_code == 400
            wrong = next(name for name, value in size.items() if not 0 <= int(value) <= 65535)
            assert f"invalid value for {wrong}: " in answer.text or "invalid terminal size" in answer.text, answer.text
        api.post(api._url(path), params={"h": "29000", "w": "29000"}).raise_for_status()
    assert engine.docker("exec", "box", "stty", "-F", "/dev/console", "size").stdout == "29000 29000\n"
    assert api.exec_inspect(exec_id)["Running"]


def test_a_first_size_that_no_terminal_has_is_refused(engine: Engine, api: docker.APIClient) -> None:
    body = {"Image": "busybox", "Tty": True, "HostConfig": {"ConsoleSize": [70000, 80]}}
    answer = api.post(api._url("/containers/create"), json=body)
    assert (answer.status_code, "HostConfig.ConsoleSize" in answer.text) == (400, True), answer.text
    engine.docker("run", "-d", "-it", "--name", "box", "busybox", "sh")
    exec_id = api.exec_create("box", ["stty", "size"], tty=True)["Id"]
    answer = api.post(api._url(f"/exec/{exec_id}/start"), json={"Detach": True, "Tty": True, "ConsoleSize": [1, 70000]})
    assert (answer.status_code, "ConsoleSize" in answer.text) == (400, True), answer.text


ALONE = "echo first; exec </dev/null >/tmp/o 2>&1; sleep 0.3; echo later >{console}; sleep 1000"


def test_a_console_outlives_whoever_has_it_open(engine: Engine) -> None:
    """Its other end belongs to the process, not to who holds it: an init closes it and opens it again to write."""
    engine.docker("run", "-d", "-t", "--name", "box", "busybox", "sh", "-c", ALONE.format(console="/dev/console"))
    eventually(lambda: engine.docker("logs", "box").stdout == "first\nlater\n", what="both lines in the log")
    engine.docker("kill", "box")
    assert engine.docker("inspect", "-f", "{{.State.ExitCode}}", "box").stdout == "137\n"


def test_the_terminal_of_an_exec_outlives_whoever_has_it_open(engine: Engine, api: docker.APIClient) -> None:
    engine.docker("run", "-d", "--name", "box", "busybox", "sleep", "1000")
    script = "t=$(tty); exec 9>/dev/null; " + ALONE.format(console="$t").replace("sleep 1000", "exit 7")
    exec_id = api.exec_create("box", ["sh", "-c", script], tty=True)["Id"]
    joined = api.exec_start(exec_id, tty=True, socket=True)
    assert until_closed(joined) == b"first\r\nlater\r\n"
    assert api.exec_inspect(exec_id)["ExitCode"] == 7
