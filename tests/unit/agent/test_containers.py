"""The life of a node's containers, where it meets a process that is faster."""

from __future__ import annotations

import asyncio
import signal
from types import SimpleNamespace
from typing import Any, cast

import pytest

from services.executor.agent.containers import Containers, Live
from services.executor.agent.shims import ShimClient, ShimGone
from services.executor.runtime.errors import NotFound, RuntimeFailure
from shared.contracts.node import ExitRecord


class Shim:
    """One whose process ends just before a signal for it arrives."""

    def __init__(self, answer: RuntimeFailure | ShimGone, live: Live) -> None:
        self.answer = answer
        self.live = live

    async def signal(self, number: int) -> None:
        asyncio.get_running_loop().call_soon(self.live.exited.set)
        raise self.answer


@pytest.mark.parametrize("answer", [NotFound("process already finished"), ShimGone("the shim is gone", step="shim")])
async def test_a_process_that_has_just_ended_was_stopped(answer: RuntimeFailure | ShimGone) -> None:
    exit_ = ExitRecord(id="c", generation=1, exit_code=0, started_at_ns=1, finished_at_ns=2)
    record = SimpleNamespace(id="c", status="running", manually_stopped=False, exit=exit_)
    records = SimpleNamespace(get=lambda _id: record, keep=lambda _record: None)
    nothing = cast(Any, None)
    containers = Containers("node", cast(Any, records), nothing, nothing, nothing, nothing, nothing)
    live = Live(shim=nothing)
    live.shim = cast(ShimClient, Shim(answer, live))
    containers._live["c"] = live
    assert await containers.stop("c", signal.SIGTERM, 0) is exit_
    live.exited.clear()
    await containers.signal("c", signal.SIGKILL, deliberate=True)
