"""Layers that do not arrive."""

from __future__ import annotations

from typing import Any

import pytest

from services.executor.agent import fetching
from shared.contracts.images import LayerSource, LayerSources
from shared.errors import Unavailable


class Nothing:
    """A connection whose answers are whole, in order, and empty: chunked, so that no length says what is missing."""

    status = 206
    length = None

    def request(self, *_: Any, **__: Any) -> None: ...

    def getresponse(self) -> Nothing:
        return self

    def read(self, _: int) -> bytes:
        return b""

    def close(self) -> None: ...


class NoStore:
    discarded = False

    def stage(self) -> NoStore:
        return self

    def discard(self) -> None:
        self.discarded = True


def test_empty_answers_are_not_asked_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "FIRST_PAUSE_S", 0.0)
    source = LayerSource(chain_id="sha256:c", diff_id="sha256:d", blob="sha256:b", blob_bytes=5)
    store: Any = NoStore()
    fetch = fetching.Fetch(store, source, LayerSources(layers=[source], url="http://registry/v2/", token="t"))
    monkeypatch.setattr(fetch, "_connection", lambda _: Nothing())
    with pytest.raises(Unavailable, match="cannot be fetched"):
        fetch.run()
    assert store.discarded
