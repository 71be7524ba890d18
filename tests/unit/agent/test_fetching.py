"""Layers that arrive in parts, or do not arrive."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path
from typing import Any

import pytest

from services.executor.agent.layers import fetching
from services.executor.agent.layers.partial import KEPT_S, PartialBlob, remove_old
from shared.contracts.images import LayerSource, LayerSources
from shared.errors import InvalidArgument, Unavailable

BLOB = bytes(range(256)) * 20_000


class Layer:
    """A store and the layer that is being unpacked in it, which takes any blob for its own tar."""

    def __init__(self, root: Path) -> None:
        self.root = root / "layers"
        self.data = b""
        self.committed: list[bytes] = []

    def stage(self) -> Layer:
        self.data = b""
        return self

    def write(self, data: bytes) -> bool:
        self.data += data
        return True

    def finish(self) -> Layer:
        return self

    @property
    def diff_id(self) -> str:
        return f"sha256:{hashlib.sha256(self.data).hexdigest()}"

    def commit(self, staged: Layer, chain_id: str, *, fetched: bool) -> None:
        self.committed.append(staged.data)

    def discard(self) -> None: ...


class Registry:
    """A connection that gives the blob from where it is asked to, up to a byte after which it breaks.

    Attributes:
        asked: The ranges, as they were asked for.
    """

    status = 206

    def __init__(self, blob: bytes = BLOB, until: int | None = None) -> None:
        self._blob, self._until = blob, until
        self._at = 0
        self.asked: list[str] = []

    def request(self, _method: str, _path: str, headers: dict[str, str]) -> None:
        self.asked.append(headers["Range"])
        self._at = int(headers["Range"].removeprefix("bytes=").removesuffix("-"))

    def getresponse(self) -> Registry:
        return self

    def read(self, size: int) -> bytes:
        if self._until is not None and self._at >= self._until:
            raise ConnectionResetError("cut")
        end = min(self._at + size, len(self._blob) if self._until is None else self._until)
        data, self._at = self._blob[self._at : end], end
        return data

    def close(self) -> None: ...


def fetch_from(registry: Registry, store: Layer, monkeypatch: pytest.MonkeyPatch) -> fetching.Fetch:
    digest = f"sha256:{hashlib.sha256(BLOB).hexdigest()}"
    source = LayerSource(chain_id="sha256:c", diff_id=digest, blob=digest, blob_bytes=len(BLOB))
    sources = LayerSources(layers=[source], url="http://registry/v2/", token="t")
    fetch = fetching.Fetch(store, source, sources)  # type: ignore[arg-type]
    monkeypatch.setattr(fetch, "_connection", lambda _: registry)
    monkeypatch.setattr(fetching, "FIRST_PAUSE_S", 0.0)
    monkeypatch.setattr(fetching, "MOST_PAUSE_S", 0.0)
    return fetch


@pytest.fixture
def store(tmp_path: Path) -> Layer:
    return Layer(tmp_path)


def arriving(store: Layer) -> list[Path]:
    return list((store.root.parent / "arriving").iterdir())


def test_the_next_agent_goes_on_where_the_last_one_was(store: Layer, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Registry(until=3_000_000)
    with pytest.raises(Unavailable):
        fetch_from(first, store, monkeypatch).run()
    assert [path.stat().st_size for path in arriving(store)] == [3_000_000]
    second = Registry()
    fetch = fetch_from(second, store, monkeypatch)
    fetch.run()
    assert second.asked == ["bytes=3000000-"]
    assert fetch.arrived == len(BLOB)
    assert store.committed == [BLOB]
    assert arriving(store) == []


def test_a_damaged_beginning_is_fetched_again(store: Layer, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unavailable):
        fetch_from(Registry(until=3_000_000), store, monkeypatch).run()
    [path] = arriving(store)
    path.write_bytes(b"\0" * 3_000_000)
    again = Registry()
    fetch_from(again, store, monkeypatch).run()
    assert again.asked == ["bytes=3000000-", "bytes=0-"]
    assert store.committed == [BLOB]
    assert arriving(store) == []


def test_what_is_something_else_is_not_kept(store: Layer, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Registry(bytes(len(BLOB)))
    with pytest.raises(InvalidArgument, match="verification failed"):
        fetch_from(other, store, monkeypatch).run()
    assert other.asked == ["bytes=0-"]
    assert arriving(store) == []


def test_two_fetches_of_one_blob_do_not_mix(store: Layer, monkeypatch: pytest.MonkeyPatch) -> None:
    beside = PartialBlob(store.root.parent, f"sha256:{hashlib.sha256(BLOB).hexdigest()}")
    beside.write(b"of another layer")
    fetch_from(Registry(), store, monkeypatch).run()
    assert store.committed == [BLOB]
    assert [path.read_bytes() for path in arriving(store)] == [b"of another layer"]
    beside.keep()


def test_old_beginnings_go(store: Layer) -> None:
    for name, age_s in (("a" * 64, KEPT_S + 1), ("b" * 64, 1)):
        one = PartialBlob(store.root.parent, f"sha256:{name}")
        one.keep()
        os.utime(store.root.parent / "arriving" / name, (time.time() - age_s,) * 2)
    remove_old(store.root.parent)
    assert [path.name for path in arriving(store)] == ["b" * 64]


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

    def __init__(self, root: Path) -> None:
        self.root = root / "layers"

    def stage(self) -> NoStore:
        return self

    def discard(self) -> None:
        self.discarded = True


def test_empty_answers_are_not_asked_for_for_ever(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fetching, "FIRST_PAUSE_S", 0.0)
    source = LayerSource(chain_id="sha256:c", diff_id="sha256:d", blob="sha256:b", blob_bytes=5)
    store: Any = NoStore(tmp_path)
    fetch = fetching.Fetch(store, source, LayerSources(layers=[source], url="http://registry/v2/", token="t"))
    monkeypatch.setattr(fetch, "_connection", lambda _: Nothing())
    with pytest.raises(Unavailable, match="cannot be fetched"):
        fetch.run()
    assert store.discarded
