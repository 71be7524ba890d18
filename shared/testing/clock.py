"""A clock that only tests move."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


class FakeClock:
    """Stands still until `advance`."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._start = start
        self._passed_s = 0.0

    def advance(self, seconds: float) -> None:
        self._passed_s += seconds

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self._passed_s)

    def time_ns(self) -> int:
        return int(self._start.timestamp()) * 1_000_000_000 + int(self._passed_s * 1_000_000_000)

    def monotonic(self) -> float:
        return self._passed_s
