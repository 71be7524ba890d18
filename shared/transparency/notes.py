"""Signed notes: a few lines of text and the signatures of those who stand behind them.

::

    davit.example.org/audit
    1000
    qINS1GRFhWHwdkUeqLEoP4yEMkTBBzxBkGwGQlVlVcs=

    — davit.example.org/audit Az3grl…=        name, and base64 of 4 bytes that name the key, and the signature

The form is that of public transparency logs, so that their witnesses and tools can read it.

Source: C2SP signed-note and tlog-checkpoint; RFC 8032 (Ed25519).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from shared.errors import InvalidArgument

_ED25519 = b"\x01"
_DASH = "\u2014 "

Sign = Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key and the name it signs under. Its text form is ``name+8 hex digits+base64``."""

    name: str
    public: bytes

    @property
    def key_hash(self) -> bytes:
        """Four bytes by which a signature says which key made it."""
        return hashlib.sha256(self.name.encode() + b"\n" + _ED25519 + self.public).digest()[:4]

    def __str__(self) -> str:
        return f"{self.name}+{self.key_hash.hex()}+{base64.b64encode(_ED25519 + self.public).decode()}"

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """Raises InvalidArgument for what is no key of this form, or whose parts do not belong together."""
        name, _, rest = text.strip().partition("+")
        named, _, encoded = rest.partition("+")
        raw = decode_base64(encoded, "the verifier key")
        if not name or raw[:1] != _ED25519 or len(raw) != 33:
            raise InvalidArgument("not a verifier key of the form name+hash+base64 of an Ed25519 key", field="key")
        key = cls(name, raw[1:])
        if key.key_hash.hex() != named:
            raise InvalidArgument("the verifier key's hash is not that of its name and key", field="key")
        return key

    def verify(self, message: bytes, signature: bytes) -> bool:
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, message)
        except InvalidSignature:
            return False
        return True


class Signer:
    """Signs notes under a name.

    Args:
        sign: From a message to its 64 bytes of signature; may raise Unavailable when the key lies elsewhere.
    """

    def __init__(self, key: VerifierKey, sign: Sign) -> None:
        self.key = key
        self._sign = sign

    @classmethod
    def of(cls, name: str, private: Ed25519PrivateKey) -> Signer:
        """With a key in this process."""
        return cls(VerifierKey(name, public_bytes(private)), private.sign)

    def note(self, text: str) -> str:
        """The text, which ends in a line end, with its signature."""
        signature = self.key.key_hash + self._sign(text.encode())
        return f"{text}\n{_DASH}{self.key.name} {base64.b64encode(signature).decode()}\n"


def decode_base64(text: str, what: str) -> bytes:
    """Raises InvalidArgument for any text but the one that these bytes are encoded as."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidArgument(f"{what} is not base64") from error
    if base64.b64encode(raw).decode() != text:
        raise InvalidArgument(f"{what} is not base64 as it is written")
    return raw


def public_bytes(private: Ed25519PrivateKey) -> bytes:
    return private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def open_note(note: str, key: VerifierKey) -> str:
    """The text of a note that this key has signed.

    Raises:
        InvalidArgument: It is no note, or has no valid signature by this key.
    """
    text, separator, signatures = note.rpartition("\n\n")
    if not separator or not signatures.endswith("\n"):
        raise InvalidArgument("not a signed note")
    text += "\n"
    for line in signatures.splitlines():
        name, _, encoded = line.removeprefix(_DASH).rpartition(" ")
        if not line.startswith(_DASH):
            raise InvalidArgument("not a signed note: a line of its signatures is none")
        if name != key.name:
            continue
        raw = decode_base64(encoded, "a signature of the note")
        if raw[:4] == key.key_hash and len(raw) == 68 and key.verify(text.encode(), raw[4:]):
            return text
    raise InvalidArgument(f"the note has no valid signature of {key.name}")
