"""Tokens with which nodes read layers."""

from __future__ import annotations

import time

import pytest

from services.image.server import nodes
from services.image.server.nodes import NodeTokens


def test_a_token_lets_its_bearer_in_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    token = NodeTokens(b"key").make()
    assert NodeTokens(b"key").allows(f"Bearer {token}")
    assert not NodeTokens(b"other").allows(f"Bearer {token}")
    later = time.time() + nodes.TOKEN_S + 1
    monkeypatch.setattr(time, "time", lambda: later)
    assert not NodeTokens(b"key").allows(f"Bearer {token}")


@pytest.mark.parametrize("header", ["", "Bearer", "Basic YTpi", "Bearer 1.\xe9", "Bearer \xb2.00", "Bearer 1.2.3"])
def test_what_is_no_token_is_refused(header: str) -> None:
    assert not NodeTokens(b"key").allows(header)
