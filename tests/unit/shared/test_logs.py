"""Log lines: one line each, with the request, without secrets."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from shared import logs
from shared.bus.context import RequestContext, use_context


@pytest.fixture
def _root() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def line(*, json_lines: bool, **fields: Any) -> str:
    stream = io.StringIO()
    logs.configure("test", json=json_lines, stream=stream)
    with use_context(RequestContext(request_id="r1")):
        logs.StructuredLogger(logging.getLogger("x")).info("pulled the image", **fields)
    return stream.getvalue()


@pytest.mark.usefixtures("_root")
def test_key_value_lines() -> None:
    text = line(json_lines=False, image="a b", size_bytes=7)
    assert text.count("\n") == 1
    assert 'msg="pulled the image"' in text
    assert 'image="a b" size_bytes=7' in text
    assert "request_id=r1" in text


@pytest.mark.usefixtures("_root")
def test_json_lines() -> None:
    entry = json.loads(line(json_lines=True, size_bytes=7))
    assert (entry["service"], entry["size_bytes"], entry["request_id"]) == ("test", 7, "r1")


@pytest.mark.usefixtures("_root")
def test_secrets_are_hidden() -> None:
    text = line(
        json_lines=False,
        password="hunter2",
        url="nats://davit:hunter2@host:4222/x",
        headers={"X-Registry-Auth": "hunter2", "Host": "shown"},
    )
    assert "hunter2" not in text
    assert "shown" in text


@pytest.mark.usefixtures("_root")
def test_a_message_cannot_forge_a_line() -> None:
    stream = io.StringIO()
    logs.configure("test", stream=stream)
    logging.getLogger("x").info("first\ntime=0 level=error msg=forged")
    assert stream.getvalue().count("\n") == 1
