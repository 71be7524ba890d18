"""Detach keys: the sequence that ends an attachment to a terminal and leaves its process running.

Source: Docker Engine API 1.50, ContainerAttach, `detachKeys`; moby/term `ascii.go` for the names of keys.
"""

from __future__ import annotations

from shared.errors import InvalidArgument

DEFAULT_KEYS = "ctrl-p,ctrl-q"
CONTROL_SYMBOLS = {"@": 0, "[": 27, "\\": 28, "]": 29, "^": 30, "_": 31}


def parse_keys(text: str) -> bytes:
    """``ctrl-p,ctrl-q`` as the bytes a terminal sends. Raises InvalidArgument for a key that does not exist."""
    return bytes(_key(name) for name in text.split(","))


def _key(name: str) -> int:
    if len(name) == 1 and name.isascii():
        return ord(name)
    word, _, symbol = name.partition("-")
    if word == "ctrl" and len(symbol) == 1:
        if "a" <= symbol <= "z":
            return ord(symbol) - ord("a") + 1
        if symbol in CONTROL_SYMBOLS:
            return CONTROL_SYMBOLS[symbol]
    if name == "DEL":
        return 127
    raise InvalidArgument(f"Invalid detach keys ({name}) provided", field="detachKeys")


class DetachKeys:
    """Looks for the sequence in what is typed, also when it arrives in pieces; its first keys are held back."""

    def __init__(self, text: str) -> None:
        self._keys = parse_keys(text)
        self._held = 0
        self.seen = False

    def feed(self, data: bytes) -> bytes:
        """What is to be passed on; nothing behind the sequence is, once it has been `seen`."""
        passed = bytearray()
        for byte in data:
            if byte == self._keys[self._held]:
                self._held += 1
                if self._held == len(self._keys):
                    self.seen = True
                    return bytes(passed)
                continue
            passed += self._keys[: self._held]
            self._held = 0
            if byte == self._keys[0]:
                self._held = 1
            else:
                passed.append(byte)
        return bytes(passed)
