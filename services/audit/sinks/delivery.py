"""What a delivery is to do with a batch, and what can come of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class NotDelivered(Exception):
    """The batch has not arrived, or it is not known; it is to be sent again.

    Args:
        after_s: How long to wait at least.
        gone: Whoever takes it has said that it wants no more.
    """

    def __init__(self, reason: str, *, after_s: float = 0, gone: bool = False) -> None:
        super().__init__(reason)
        self.after_s = after_s
        self.gone = gone


class Delivery(Protocol):
    """One way out."""

    async def send(self, first: int, lines: Sequence[bytes]) -> None:
        """Hand on records, of which the first has that number; once it returns they are safe there.

        Raises:
            NotDelivered: They are not, or perhaps not.
        """
        ...

    async def close(self) -> None: ...
