"""Filters of network lists and prunes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from services.network import filters
from services.network.domain import NetworkRecord
from services.network.handlers import find
from services.network.sql import KnownNetwork
from shared.docker.moments import datetime_ns
from shared.errors import InvalidArgument, NotFound

NOW = datetime(2024, 5, 1, 12, tzinfo=UTC)
NOW_NS = datetime_ns(NOW)


def record(name: str = "web", age_s: float = 0, **fields: object) -> NetworkRecord:
    created = (NOW - timedelta(seconds=age_s)).isoformat()
    return NetworkRecord.model_validate({"id": "ab12", "name": name, "created_at": created, **fields})


def test_list_filters() -> None:
    web = record(labels={"env": "test"})
    for wanted in ({"name": ["we"]}, {"id": ["ab"]}, {"label": ["env"]}, {"label": ["env=test"]}, {"type": ["custom"]}):
        assert filters.matches(web, wanted, in_use=False)
    for unwanted in ({"name": ["x"]}, {"label": ["env=prod"]}, {"type": ["builtin"]}, {"scope": ["swarm"]}):
        assert not filters.matches(web, unwanted, in_use=False)
    assert filters.matches(web, {"dangling": ["1"]}, in_use=False)
    assert not filters.matches(web, {"dangling": ["true"]}, in_use=True)
    assert not filters.matches(record("bridge"), {"dangling": ["true"]}, in_use=False)
    with pytest.raises(InvalidArgument, match="invalid filter: 'type'='odd'"):
        filters.matches(web, {"type": ["odd"]}, in_use=False)


@pytest.mark.parametrize("until", ["1h30m", "90m", "5400s", "2024-05-01T10:30:00+00:00", str(NOW.timestamp() - 5400)])
def test_until(until: str) -> None:
    assert filters.prunable(record(age_s=5401), {"until": [until]}, NOW_NS)
    assert not filters.prunable(record(age_s=5399), {"until": [until]}, NOW_NS)


@pytest.mark.parametrize("until", ["soon", "h", "10x", "", "1.2.3s", "²h", "nan", "1e999", "9" * 400, "9" * 20 + "h"])
def test_bad_until(until: str) -> None:
    with pytest.raises(InvalidArgument, match="until"):
        filters.prunable(record(), {"until": [until]}, NOW_NS)


def test_a_full_id_is_no_other_networks_name() -> None:
    named = KnownNetwork(record("f" * 64).model_copy(update={"id": "a" * 64}))
    meant = KnownNetwork(record("web").model_copy(update={"id": "f" * 64}))
    assert find([named, meant], "f" * 64) is meant
    assert find([named, meant], "aa") is named
    with pytest.raises(NotFound):
        find([named, meant], "")
