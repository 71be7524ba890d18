"""Where services hand in what is to be recorded, and what happens when that is not possible.

``enforced``: the record is on the disk before the request has an effect, or the request is refused. ``best-effort``:
the request goes on, and what could not be recorded is counted, in a place that is kept for it, and recorded as a gap
as soon as that is possible.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import orjson

from shared.auditing import records
from shared.auditing.spool import Spool
from shared.contracts.audit import SPOOLED
from shared.errors import DavitError, Unavailable

if TYPE_CHECKING:
    from shared.service import ServiceContext

Mode = Literal["enforced", "best-effort"]
# The audit service looks by itself, too; until it is told, records wait where nothing loses them.
TELL_AFTER_S = 0.05


class Sink(Protocol):
    """Takes records; a `Spool` is one."""

    source: str

    def write(self, payload: bytes, *, spare: bool = False) -> None: ...

    async def sync(self) -> None: ...

    def tell_lost(self, lost: dict[str, Any] | None) -> None: ...

    def close(self) -> None: ...


class Recorder:
    """One process's records.

    Args:
        open_sink: Tried again for each record while it fails.
        tell: Says that there are records to take; called at most every 50 ms.
    """

    def __init__(
        self, open_sink: Callable[[Callable[[], list[Any]]], Sink], mode: Mode, tell: Callable[[], None] = lambda: None
    ) -> None:
        self._open_sink = open_sink
        self._sink: Sink | None = None
        self.mode: Mode = mode
        self._tell = tell
        self._telling = False
        self._open: dict[str, dict[str, Any]] = {}
        self._lost: dict[str, Any] | None = None
        self._gaps = 0

    def record(self, record: dict[str, Any], *, spare: bool = False, happened: bool = False) -> None:
        """Record it, or count it as lost.

        Args:
            spare: It belongs to what ends something, for which space is kept.
            happened: It is too late to refuse what is recorded.

        Raises:
            Unavailable: In enforced mode: it could not be recorded, and so must not happen.
        """
        try:
            sink = self._ready_sink()
            if self._lost is not None:
                self._record_gap(sink, spare)
            sink.write(orjson.dumps(record), spare=spare)
        except DavitError as error:
            if self.mode == "enforced" and not happened:
                self._count_lost(error, refused=True)
                raise Unavailable(f"the request cannot be recorded, and so is not carried out: {error}") from error
            self._count_lost(error)
            return
        self._tell_soon()

    def received(self, request: str, record: dict[str, Any], *, spare: bool = False) -> None:
        """As `record`, of a request that is under way from now on. Raises Unavailable."""
        self.record(record, spare=spare)
        self._open[request] = {"request": request, "action": record.get("action")}

    def complete(self, request: str, record: dict[str, Any], *, spare: bool = False) -> None:
        """As `record`, of a request that has ended."""
        self._open.pop(request, None)
        self.record(record, spare=spare, happened=True)

    async def durable(self) -> None:
        """In enforced mode, return when all that was recorded is on the disk. Raises Unavailable."""
        if self.mode == "enforced" and self._sink is not None:
            await self._sink.sync()

    def _ready_sink(self) -> Sink:
        if self._sink is None:
            self._sink = self._open_sink(lambda: list(self._open.values()))
        return self._sink

    def _record_gap(self, sink: Sink, spare: bool) -> None:
        assert self._lost is not None
        sink.write(orjson.dumps(gap(self._lost)), spare=spare)
        self._lost = None
        sink.tell_lost(None)

    def _count_lost(self, error: DavitError, *, refused: bool = False) -> None:
        now = records.moment(time.time_ns())
        if self._lost is None:
            self._gaps += 1
            self._lost = {"gap": self._gaps, "count": 0, "refused": 0, "first": now, "reason": error.message}
        self._lost["count"] += 1
        self._lost["refused"] += refused
        self._lost["last"] = now
        if self._sink is not None:
            with contextlib.suppress(Unavailable):  # it stays in memory, and is told as soon as anything can be written
                self._sink.tell_lost(self._lost)

    def _tell_soon(self) -> None:
        if self._telling:
            return
        self._telling = True
        asyncio.get_running_loop().call_later(TELL_AFTER_S, self._tell_now)

    def _tell_now(self) -> None:
        self._telling = False
        self._tell()

    def close(self) -> None:
        if self._sink is None:
            return
        if self._lost is not None:
            with contextlib.suppress(Unavailable):  # the audit service finds the count beside the spool
                self._record_gap(self._sink, spare=True)
        self._sink.close()


def gap(lost: dict[str, Any]) -> dict[str, Any]:
    """The record that says what is not recorded."""
    return {
        "kind": records.GAP,
        "time": lost["last"],
        "gap": {
            "count": lost["count"],
            "refused": lost.get("refused", 0),  # among them: what was not carried out for that
            "first": lost["first"],
            "id": lost["gap"],
            "reason": lost["reason"],
        },
    }


def recorder_of(context: ServiceContext) -> Recorder:
    """A service's recorder, as the configuration says; whoever makes it closes it."""

    async def publish() -> None:
        with contextlib.suppress(Unavailable):  # the audit service looks by itself, too
            await context.bus.publish(SPOOLED, b"")

    def tell() -> None:
        context.spawn(publish(), name="records wait")

    directory = Path(context.config.data_root) / "audit" / "spool"
    return Recorder(spooling(directory, context.name), context.config.audit_mode, tell)


def spooling(directory: Path, name: str) -> Callable[[Callable[[], list[Any]]], Sink]:
    """What opens a spool of this service."""
    return lambda open_requests: Spool(directory, name, open_requests=open_requests)
