"""What the edge itself decides, asked of both engines: older versions, frames of execs, filters of prunes, headers."""

from __future__ import annotations

import json
import socket
from typing import Any
from urllib.parse import quote

import pytest

from .conftest import Answer, Asked, Question

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

TWO_NETWORKS = {"Image": "busybox", "NetworkingConfig": {"EndpointsConfig": {"net": {}, "bridge": {}}}}


def filtered(path: str, **filters: list[str]) -> str:
    return f"{path}?filters={quote(json.dumps(filters))}"


def asked_in(asked: Asked, version: str, method: str, path: str, body: Any = None) -> Answer:
    """A question in a version of the API that is not the usual one."""
    return asked.ask(Question(method, path, None if body is None else json.dumps(body)), version=version)


def both(davit: Asked, reference: Asked, question: Question) -> tuple[Answer, Answer]:
    return davit.ask(question), reference.ask(question)


def test_several_networks_need_a_newer_version(davit: Asked, reference: Asked) -> None:
    for asked in (davit, reference):
        answer = asked.ask(Question("POST", "/containers/create", json.dumps(TWO_NETWORKS)))
        assert answer.status == 400
        assert "network endpoints: net, bridge" in answer.message or "network endpoints: bridge, net" in answer.message
    answer = asked_in(davit, "v1.44", "POST", "/containers/create?name=two", TWO_NETWORKS)
    assert answer.status == 201
    davit.engine.docker("rm", "two")


@pytest.mark.parametrize("version", ["v1.39", "v1.40"])
@pytest.mark.parametrize("host", [{}, {"IpcMode": "none"}, None], ids=str)
def test_ipc_is_shareable_in_older_versions(davit: Asked, reference: Asked, version: str, host: Any) -> None:
    body = {"Image": "busybox"} | ({} if host is None else {"HostConfig": host})
    shown = []
    for asked in (davit, reference):
        made = asked_in(asked, version, "POST", "/containers/create?name=ipc", body)
        assert made.status == 201
        config = asked_in(asked, version, "GET", "/containers/ipc/json").json["HostConfig"]
        shown.append((config["IpcMode"], config["ConsoleSize"]))
        asked.engine.docker("rm", "ipc")
    assert shown[0] == shown[1]


@pytest.mark.parametrize("slash", ["", "/"])
def test_networks_with_and_without_a_slash(davit: Asked, reference: Asked, slash: str) -> None:
    answers = both(davit, reference, Question("GET", filtered(f"/networks{slash}", driver=["bridge"])))
    names = [{network["Name"] for network in answer.json} for answer in answers]
    assert names[0] == names[1] >= {"bridge", "net"}


@pytest.mark.parametrize(
    "path",
    [
        filtered("/build/prune", label=["nothing=here"]),
        filtered("/containers/prune", label=["nothing=here"]),
        filtered("/images/prune", label=["nothing=here"]),
        filtered("/networks/prune", label=["nothing=here"]),
        filtered("/volumes/prune", label=["nothing=here"]),
        filtered("/build/prune", bogus=["x"]),
        filtered("/volumes/prune", until=["1h"]),
        filtered("/build/prune", until=["1h", "2h"]),
    ],
)
def test_filters_of_prunes(davit: Asked, reference: Asked, path: str) -> None:
    ours, theirs = both(davit, reference, Question("POST", path))
    assert ours.status == theirs.status
    if ours.status == 200:
        assert ours.json == theirs.json
    else:
        assert ours.message.lower() in (theirs.message.lower(), "filters expect only one value for until")


@pytest.mark.parametrize("kind", ["text/plain", "application/json", "x/y; z", None])
def test_a_build_takes_any_content_type(davit: Asked, reference: Asked, kind: str | None) -> None:
    headers = {"Content-Type": kind} if kind else {}
    answers = both(davit, reference, Question("POST", "/build?q=1", "nonsense", headers))
    assert all("content-type" not in answer.body.decode().lower() for answer in answers)


def test_the_head_of_a_ping(davit: Asked, reference: Asked) -> None:
    ours, theirs = both(davit, reference, Question("HEAD", "/_ping"))
    assert ours.headers["content-length"] == theirs.headers["content-length"] == "0"
    assert ours.headers["content-type"] == theirs.headers["content-type"]


def names_on_the_wire(asked: Asked, path: str) -> set[str]:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(asked.engine.url.removeprefix("unix://"))
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        data = b""
        while b"\r\n\r\n" not in data:
            data += client.recv(65536)
    return {line.split(":")[0] for line in data.decode("latin-1").split("\r\n\r\n")[0].split("\r\n")[1:]}


@pytest.mark.parametrize(
    "path", ["/_ping", "/containers/json", "/containers/none/json", "/containers/probe/archive?path=/etc"]
)
def test_headers_are_spelled_alike(davit: Asked, reference: Asked, path: str) -> None:
    theirs = names_on_the_wire(reference, path) - {"Transfer-Encoding"}  # Docker's, where an answer is large
    assert theirs <= names_on_the_wire(davit, path)


def exec_output(asked: Asked, *, created: bool, started: bool, upgrade: bool) -> tuple[str, bytes]:
    """Content type and bytes of an exec that says something on both of its streams."""
    body = {"Cmd": ["sh", "-c", "echo out; echo err >&2"], "AttachStdout": True, "AttachStderr": True, "Tty": created}
    made = asked.ask(Question("POST", "/containers/probe/exec", json.dumps(body))).json["Id"]
    content = json.dumps({"Tty": started}).encode()
    head = f"POST /v1.41/exec/{made}/start HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(content)}\r\n"
    head += "Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n" if upgrade else "\r\n"
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(asked.engine.url.removeprefix("unix://"))
        client.sendall(head.encode() + content)
        data = b""
        while chunk := client.recv(65536):
            data += chunk
    lines, _, output = data.partition(b"\r\n\r\n")
    kind = next(line for line in lines.decode().split("\r\n") if line.lower().startswith("content-type"))
    return f"{lines.split()[1].decode()} {kind}", output


@pytest.mark.parametrize("upgrade", [True, False])
@pytest.mark.parametrize("started", [True, False])
@pytest.mark.parametrize("created", [True, False])
def test_frames_of_an_exec_follow_its_start(
    davit: Asked, reference: Asked, created: bool, started: bool, upgrade: bool
) -> None:
    ours, theirs = (
        exec_output(asked, created=created, started=started, upgrade=upgrade) for asked in (davit, reference)
    )
    assert ours[0] == theirs[0]
    assert payloads(ours[1], framed=not started) == payloads(theirs[1], framed=not started)


def payloads(data: bytes, *, framed: bool) -> dict[int, bytes] | list[bytes]:
    """What each stream said; without frames, the lines in any order."""
    if not framed:
        return sorted(data.splitlines())
    found: dict[int, bytes] = {}
    while data:
        size = int.from_bytes(data[4:8], "big")
        found[data[0]] = found.get(data[0], b"") + data[8 : 8 + size]
        data = data[8 + size :]
    return found
