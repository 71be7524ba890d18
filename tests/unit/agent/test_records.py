"""What a node writes down of its containers, and when."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from services.executor.agent.containers import records as module
from services.executor.agent.containers.records import NodeRecord, NodeRecords
from shared.contracts.docker import ContainerConfig, HostConfig
from shared.contracts.node import ContainerOrder


@pytest.fixture
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NodeRecords:
    monkeypatch.setattr(module, "SETTLE_S", 0.05)
    return NodeRecords(tmp_path / "data", tmp_path / "run")


def record(name: str) -> NodeRecord:
    order = ContainerOrder(
        id=name * 64,
        name=name,
        generation=1,
        layers=[],
        config=ContainerConfig(),
        host_config=HostConfig(),
        path="true",
        args=[],
    )
    return NodeRecord(order=order, status="starting")


def test_a_reboot_shows_in_the_run_directory(records: NodeRecords, tmp_path: Path) -> None:
    records.load()
    assert records.rebooted
    later = NodeRecords(tmp_path / "data", tmp_path / "run")
    later.load()
    assert not later.rebooted


def written(tmp_path: Path) -> dict[str, str]:
    """Statuses that another agent would read."""
    found = NodeRecords(tmp_path / "data", tmp_path / "run")
    found.load()
    return {one.id[0]: one.status for one in found.all()}


async def test_what_can_wait_is_written_soon(records: NodeRecords, tmp_path: Path) -> None:
    one = record("a")
    records.save(one)
    one.status = "running"
    records.settle(one)
    assert (written(tmp_path), records.get(one.id).status) == ({"a": "starting"}, "running")
    await asyncio.sleep(0.03)
    other = record("b")
    records.save(other)
    other.status = "running"
    records.settle(other)
    await asyncio.sleep(0.04)
    assert written(tmp_path) == {"a": "running", "b": "starting"}, "each has its own time"
    await asyncio.sleep(0.05)
    assert written(tmp_path) == {"a": "running", "b": "running"}


async def test_what_is_gone_by_then_is_not_written(records: NodeRecords, tmp_path: Path) -> None:
    one = record("a")
    records.save(one)
    records.settle(one)
    records.forget(one.id)
    records.delete(one.id)
    await asyncio.sleep(0.1)
    assert written(tmp_path) == {}


async def test_the_end_of_the_agent_writes_the_rest(records: NodeRecords, tmp_path: Path) -> None:
    one = record("a")
    records.save(one)
    one.status = "running"
    records.settle(one)
    records.settle_all()
    assert written(tmp_path) == {"a": "running"}
