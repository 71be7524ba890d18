"""A record's transitions, and the texts made from it."""

from __future__ import annotations

import pytest

from services.executor.control.domain import LEGAL, Record
from shared.contracts.containers import Container
from shared.contracts.docker import ContainerConfig, HostConfig
from shared.contracts.node import ExitRecord
from shared.errors import Conflict

ID = "a" * 64
SECOND = 10**9


def record() -> Record:
    container = Container(
        id=ID, name="web", created_at="", path="sh", config=ContainerConfig(image="busybox"), host_config=HostConfig()
    )
    return Record(container=container, created_ns=0, hostname="h")


def exit_of(generation: int, at_s: int, code: int = 0) -> ExitRecord:
    return ExitRecord(id=ID, generation=generation, exit_code=code, started_at_ns=SECOND, finished_at_ns=at_s * SECOND)


def started() -> Record:
    one = record()
    one.container.generation = 1
    one.started(7, SECOND)
    return one


def test_every_status_has_its_successors() -> None:
    assert set(LEGAL) == {status for after in LEGAL.values() for status in after} | {"created"}


def test_an_exit_is_applied_once_and_only_to_its_own_start() -> None:
    one = started()
    assert one.ended(exit_of(0, 5), restarting=False) is None
    died = one.ended(exit_of(1, 5, 3), restarting=False)
    assert died is not None
    assert died.attributes == {"image": "busybox", "name": "web", "exitCode": "3", "execDuration": "4"}
    assert one.ended(exit_of(1, 5, 3), restarting=False) is None
    assert (one.status, one.exits, one.container.state.pid) == ("exited", 1, 0)


def test_restarting_counts_as_running() -> None:
    one = started()
    one.ended(exit_of(1, 5), restarting=True)
    assert one.alive
    assert one.container.state.running
    assert one.container.state.restarting
    one.rest()
    assert (one.status, one.container.state.running) == ("exited", False)


def test_what_is_not_legal_is_refused() -> None:
    with pytest.raises(Conflict, match="is running: it cannot become removing"):
        started().remove(volumes=False)
    one = record()
    one.remove(volumes=True)
    with pytest.raises(Conflict):
        one.started(1, SECOND)


def test_the_environment_of_the_order_is_not_the_one_of_inspect() -> None:
    one = record()
    assert one.order().config.env[-1] == "HOSTNAME=h"
    assert one.container.config.env == []
