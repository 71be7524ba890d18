"""The life of a node's containers, where it meets a process that is faster."""

from __future__ import annotations

import asyncio
import signal
from types import SimpleNamespace
from typing import Any, cast

import pytest

from services.executor.agent.containers.lifecycle import Containers, Live
from services.executor.agent.shims.client import ShimClient, ShimGone
from services.executor.runtime.errors import NotFound, RuntimeFailure
from shared.contracts.node import ExitRecord

EXIT = ExitRecord(id="c", generation=1, exit_code=0, started_at_ns=1, finished_at_ns=2)


class Shim:
    """One whose process ends just before a signal for it arrives, if it has an answer for that; else by SIGKILL."""

    def __init__(self, answer: RuntimeFailure | ShimGone | None, live: Live) -> None:
        self.answer = answer
        self.live = live
        self.signals: list[int] = []

    async def signal(self, number: int) -> None:
        self.signals.append(number)
        if self.answer is not None or number == signal.SIGKILL:
            asyncio.get_running_loop().call_soon(self.live.exited.set)
        if self.answer is not None:
            raise self.answer


def running(answer: RuntimeFailure | ShimGone | None) -> tuple[Containers, Shim]:
    """A node with one container, ``c``."""
    record = SimpleNamespace(id="c", status="running", manually_stopped=False, exit=EXIT)
    records = SimpleNamespace(get=lambda _id: record, keep=lambda _record: None)
    nothing = cast(Any, None)
    containers = Containers("node", cast(Any, records), nothing, nothing, nothing, nothing, nothing)
    live = Live(shim=nothing)
    shim = Shim(answer, live)
    live.shim = cast(ShimClient, shim)
    containers._live["c"] = live
    return containers, shim


@pytest.mark.parametrize("answer", [NotFound("process already finished"), ShimGone("the shim is gone", step="shim")])
async def test_a_process_that_has_just_ended_was_stopped(answer: RuntimeFailure | ShimGone) -> None:
    containers, shim = running(answer)
    assert await containers.stop("c", signal.SIGKILL, 0) is EXIT
    shim.live.exited.clear()
    await containers.signal("c", signal.SIGKILL, deliberate=True)


async def test_a_stop_without_patience_tells_the_process_all_the_same() -> None:
    containers, shim = running(None)
    assert await containers.stop("c", signal.SIGTERM, 0) is EXIT
    assert shim.signals == [signal.SIGTERM, signal.SIGKILL]
