"""Records on a JetStream stream, from which consumers with credentials of their own read."""

from __future__ import annotations

from collections.abc import Sequence

from services.audit.sinks.delivery import NotDelivered
from services.audit.sinks.formats import Format
from shared.bus import jetstream
from shared.bus.client import Bus
from shared.errors import DavitError, NotFound

STREAM = "AUDIT"
SUBJECT = "davit.auditlog"
DUPLICATES_S = 120.0


class StreamDelivery:
    """Appends to the stream; what came twice within two minutes is there once.

    Args:
        retention_s, limit_bytes: Of the stream.
    """

    def __init__(self, bus: Bus, form: Format, *, retention_s: float, limit_bytes: int) -> None:
        self._bus = bus
        self._format = form
        self._retention_s = retention_s
        self._limit_bytes = limit_bytes
        self._there = False

    async def send(self, first: int, lines: Sequence[bytes]) -> None:
        try:
            await self._ensure()
            for number, line in enumerate(lines, first):
                await jetstream.append(
                    self._bus,
                    STREAM,
                    f"{SUBJECT}.record",
                    self._format.one(line),
                    headers={"Nats-Msg-Id": f"{number}", "Davit-Number": f"{number}"},
                )
        except DavitError as error:
            self._there = False
            raise NotDelivered(str(error)) from error

    async def _ensure(self) -> None:
        if self._there:
            return
        try:
            await jetstream.last_number(self._bus, STREAM)
        except NotFound:
            await jetstream.create_stream(
                self._bus,
                STREAM,
                [f"{SUBJECT}.>"],
                max_age_s=self._retention_s,
                max_bytes=self._limit_bytes,
                duplicate_window_s=DUPLICATES_S,
            )
        self._there = True

    async def close(self) -> None:
        """The bus is the service's."""
