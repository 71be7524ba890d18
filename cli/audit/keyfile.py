"""The key that somebody trusts, as an argument or in a file."""

from __future__ import annotations

from pathlib import Path

from shared.errors import InvalidArgument
from shared.transparency.notes import VerifierKey


def key_of(text: str) -> VerifierKey:
    """Raises InvalidArgument when it is neither a key nor a file with one."""
    if "+" in text and not Path(text).exists():
        return VerifierKey.parse(text)
    try:
        return VerifierKey.parse(Path(text).read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"{text} is neither a verifier key nor a file with one", field="key") from error
