"""Requests to the registry, as the audit log has them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from services.image.server.auditing import AuditedRegistry, action_of
from shared.auditing.policy import BUILT_IN, Policy
from shared.auditing.recorder import Recorder
from shared.testing.auditing import MemorySink


class Door:
    """An application that takes a body, and answers with another."""

    def __init__(self, sink: MemorySink) -> None:
        self._sink = sink
        self.seen: list[int] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.seen.append(len(self._sink.records))
        scope.setdefault("state", {})["visitor"] = SimpleNamespace(user="alice")
        while (await receive())["more_body"]:
            pass
        await send({"type": "http.response.start", "status": 201, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
def sink():
    return MemorySink()


@pytest.fixture
def door(sink):
    return Door(sink)


@pytest.fixture
def registry(sink, door):
    recorder = Recorder(lambda _: sink, "best-effort")
    return AuditedRegistry(door, recorder, BUILT_IN)


async def ask(registry, method="PUT", path="/v2/team/app/manifests/latest"):
    bodies = [b"abc", b"defg"]
    sent = []

    async def receive():
        return {"type": "http.request", "body": bodies.pop(0), "more_body": bool(bodies)}

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "headers": [(b"user-agent", b"docker"), (b"authorization", b"Basic c2VjcmV0")],
        "client": ("10.0.0.1", 4711),
    }
    await registry(scope, receive, send)
    return sent[0]["status"]


async def test_a_push_is_received_before_it_is_taken_and_complete_with_user_and_bytes(registry, door, sink):
    assert await ask(registry) == 201
    assert door.seen == [1]
    received, complete = sink.records
    assert received["action"] == {"resource": "registry", "verb": "push", "object": "team/app"}
    assert received["client"] == {"address": "10.0.0.1:4711", "agent": "docker"}
    assert complete["actor"] == {"name": "registry:alice"}
    assert complete["outcome"]["status"] == 201
    assert complete["session"] == {"received_bytes": 7, "sent_bytes": 2}
    assert received["request"] == complete["request"]
    assert "c2VjcmV0" not in str(sink.records)


async def test_enforced_refuses_a_push_that_cannot_be_recorded(registry, door, sink):
    registry.recorder.mode = "enforced"
    sink.full = True
    assert await ask(registry) == 503
    assert door.seen == []
    assert await ask(registry, "DELETE", "/v2/team/app/manifests/sha256:0") == 201


async def test_a_policy_can_leave_the_registry_out(registry, door, sink):
    registry.policy = Policy.parse("rules: [{level: None, resources: [registry]}]", "test")
    await ask(registry)
    assert sink.records == []
    assert len(door.seen) == 1


@pytest.mark.parametrize(
    ("method", "path", "action"),
    [
        ("GET", "/v2/", ("login", "")),
        ("GET", "/v2/_catalog", ("list", "")),
        ("GET", "/v2/a/b/tags/list", ("list", "a/b")),
        ("HEAD", "/v2/a/b/blobs/sha256:0", ("pull", "a/b")),
        ("PATCH", "/v2/a/blobs/uploads/1", ("push", "a")),
        ("DELETE", "/v2/a/manifests/sha256:0", ("remove", "a")),
    ],
)
def test_what_a_request_does_is_told_from_its_path(method, path, action):
    assert action_of(method, path) == action
