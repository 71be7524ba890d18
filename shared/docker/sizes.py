"""Sizes as people write them: ``64m``, ``1.5 GiB``, ``10kb``.

One grammar and two readings: memory is counted in powers of 1024 (`binary_bytes`), files of logs and what is shown to
people in powers of 1000 (`decimal_bytes`). ``b`` and ``ib`` after the letter say nothing.

Source: go-units, RAMInBytes and FromHumanSize, which Docker's flags, configuration and log drivers are read with.
"""

from __future__ import annotations

import re
from decimal import Decimal

from shared.errors import InvalidArgument

UNITS = "kmgtp"
MOST_BYTES = 2**63 - 1
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+) ?(?:b|([kmgtp])(?:i?b)?)?", re.ASCII | re.IGNORECASE)


def binary_bytes(text: str) -> int:
    """Bytes of a size in powers of 1024. Raises InvalidArgument."""
    return _bytes(text, 1024)


def decimal_bytes(text: str) -> int:
    """Bytes of a size in powers of 1000. Raises InvalidArgument."""
    return _bytes(text, 1000)


def _bytes(text: str, base: int) -> int:
    found = _SIZE.fullmatch(text)
    if found is None:
        raise InvalidArgument(f"invalid size: '{text}'")
    unit = found[2]
    value = int(Decimal(found[1]) * (base ** (UNITS.index(unit.lower()) + 1) if unit else 1))
    if value > MOST_BYTES:
        raise InvalidArgument(f"invalid size: '{text}' is more than 64 bits can count")
    return value
