"""Signals by name or number, as Docker takes them."""

from __future__ import annotations

import re
import signal

from shared.errors import InvalidArgument

RTMIN, RTMAX = 34, 64
_REALTIME = re.compile(r"^RT(MIN|MAX)(?:([+-])(\d{1,2}))?$")


def parse_signal(text: str) -> int:
    """``9``, ``KILL``, ``SIGKILL``, ``RTMIN+3``. Raises InvalidArgument."""
    name = text.upper().removeprefix("SIG")
    if text.isdecimal():
        number = int(text)
        if 0 < number <= RTMAX:
            return number
    elif match := _REALTIME.match(name):
        base = RTMIN if match[1] == "MIN" else RTMAX
        number = base + int(match[3] or 0) * (-1 if match[2] == "-" else 1)
        if RTMIN <= number <= RTMAX:
            return number
    elif f"SIG{name}" in signal.Signals.__members__:
        return int(signal.Signals[f"SIG{name}"])
    raise InvalidArgument(f"Invalid signal: {text}", field="signal")
