"""Sizes as people write them, for options of the log and of the command line.

The same grammar as `shared.docker.sizes`, which the runtime cannot import: a test holds the two equal.
"""

from __future__ import annotations

UNITS = "kmgtp"
MOST_BYTES = 2**63 - 1


def size_bytes(text: str, base: int) -> int:
    """Bytes of "10m", "1.5 GiB", …

    Args:
        base: 1000 for files of logs, 1024 for memory.

    Raises:
        ValueError: It is no size.
    """
    number = text.lower()
    factor = 1
    if number.endswith("b"):
        number = number[:-1]
        if number.endswith("i"):
            number = number[:-1]
            if number[-1:] not in tuple(UNITS):
                raise ValueError(f"invalid size: '{text}'")
    if number[-1:] and number[-1] in UNITS:
        factor = base ** (UNITS.index(number[-1]) + 1)
        number = number[:-1]
    number = number.removesuffix(" ")
    whole, _, fraction = number.partition(".")
    if not (whole + fraction).isdecimal() or not number.isascii() or (not whole and not fraction):
        raise ValueError(f"invalid size: '{text}'")
    value: int = int(whole + fraction) * factor // 10 ** len(fraction)
    if value > MOST_BYTES:
        raise ValueError(f"invalid size: '{text}' is more than 64 bits can count")
    return value
