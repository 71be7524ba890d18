"""Time, behind a seam that tests move."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Where code that decides by time gets it from."""

    def now(self) -> datetime:
        """Wall clock, aware UTC."""
        ...

    def time_ns(self) -> int:
        """Wall clock, nanoseconds since the epoch."""
        ...

    def monotonic(self) -> float:
        """Seconds of a clock that never goes back; only differences mean anything."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def time_ns(self) -> int:
        return time.time_ns()

    def monotonic(self) -> float:
        return time.monotonic()
