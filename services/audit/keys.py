"""The key that signs checkpoints: in a file of its own, or with a command that signs.

A key that lies on this machine can be used by whoever is root on it; one that a command uses elsewhere (a token, a
vault, another machine) cannot be taken along. See docs/guide/audit.md for what each of them proves.
"""

from __future__ import annotations

import base64
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from shared.errors import InvalidArgument, Unavailable
from shared.transparency.notes import Signer, VerifierKey

COMMAND_TIMEOUT_S = 30.0
SIGNATURE_BYTES = 64


def origin_of(node: str) -> str:
    """The log's name, under which its checkpoints are signed."""
    return f"davit/{node}/audit"


def signer_of(node: str, *, key_file: str, default_file: Path, command: Sequence[str], verifier: str) -> Signer:
    """What signs this log's checkpoints.

    Args:
        key_file: A PEM file with an Ed25519 key; empty: the default one, made at the first start.
        command: Gets the text on its standard input, and prints the 64 bytes of the signature in base64.
        verifier: The public key of the command's.

    Raises:
        InvalidArgument: A file that is no key, or a command without its public key.
    """
    if command:
        if not verifier:
            raise InvalidArgument(
                "configuration key audit-verifier: audit-sign-command needs the public key to it",
                field="audit-verifier",
            )
        key = VerifierKey.parse(verifier)
        return Signer(key, lambda text: _signed_by(command, key, text))
    path = Path(key_file) if key_file else default_file
    if not key_file and not path.exists():
        _make(path)
    try:
        private = load_pem_private_key(path.read_bytes(), None)
    except OSError as error:
        raise InvalidArgument(
            f"configuration key audit-key: {path} cannot be read: {error.strerror}", field="audit-key"
        ) from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InvalidArgument(f"configuration key audit-key: {path} is no key: {error}", field="audit-key") from error
    if not isinstance(private, Ed25519PrivateKey):
        raise InvalidArgument(f"configuration key audit-key: {path} is no Ed25519 key", field="audit-key")
    return Signer.of(origin_of(node), private)


def _make(path: Path) -> None:
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    hidden = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(descriptor)
        hidden.rename(path)
    except OSError as error:
        raise Unavailable(f"the audit log's key {path} cannot be made: {error.strerror}") from error


def _signed_by(command: Sequence[str], key: VerifierKey, text: bytes) -> bytes:
    """Raises Unavailable, with what the command said."""
    try:
        done = subprocess.run(command, input=text, capture_output=True, timeout=COMMAND_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"audit-sign-command {command[0]}: {error}") from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()[-300:]
        raise Unavailable(f"audit-sign-command {command[0]} ended with {done.returncode}: {said}")
    try:
        signature = base64.b64decode(done.stdout.strip(), validate=True)
    except ValueError as error:
        raise Unavailable(f"audit-sign-command {command[0]} did not print base64") from error
    if len(signature) != SIGNATURE_BYTES or not key.verify(text, signature):
        raise Unavailable(f"audit-sign-command {command[0]} printed no signature by the key audit-verifier")
    return signature
