"""Signed checkpoints, in the public form of transparency logs."""

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared.errors import InvalidArgument
from shared.transparency.checkpoints import Checkpoint
from shared.transparency.notes import Signer, VerifierKey, open_note

# The example of Go's golang.org/x/mod/sumdb/note, which the form comes from.
VKEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
NOTE = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
    "\n"
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
CHECKPOINT = Checkpoint("davit.example/audit", 1000, bytes(range(32)), "2026-11-30T01:02:03Z")


@pytest.fixture
def signer():
    return Signer.of("davit.example/audit", Ed25519PrivateKey.generate())


def test_a_note_that_others_signed_is_opened():
    key = VerifierKey.parse(VKEY)
    assert str(key) == VKEY
    assert open_note(NOTE, key).startswith("If you think")
    with pytest.raises(InvalidArgument):
        open_note(NOTE.replace("answer", "anSwer"), key)


def test_a_checkpoint_comes_back_from_its_note(signer):
    note = CHECKPOINT.signed(signer)
    assert note.splitlines()[:3] == ["davit.example/audit", "1000", base64.b64encode(bytes(range(32))).decode()]
    assert Checkpoint.opened(note, VerifierKey.parse(str(signer.key))) == CHECKPOINT


def test_every_changed_character_of_a_note_is_noticed(signer):
    note = CHECKPOINT.signed(signer)
    for at in range(len(note)):
        changed = note[:at] + ("A" if note[at] != "A" else "B") + note[at + 1 :]
        with pytest.raises(InvalidArgument):
            Checkpoint.opened(changed, signer.key)


def test_another_key_of_the_same_name_does_not_open_a_note(signer):
    other = Signer.of(signer.key.name, Ed25519PrivateKey.generate())
    with pytest.raises(InvalidArgument, match="no valid signature"):
        Checkpoint.opened(CHECKPOINT.signed(signer), other.key)


@pytest.mark.parametrize("text", ["", "a", "a+b", "a+00000000+AAAA", VKEY.replace("c74f20a3", "c74f20a4"), "a+0+%%"])
def test_what_is_no_key_is_refused(text):
    with pytest.raises(InvalidArgument):
        VerifierKey.parse(text)


@pytest.mark.parametrize("text", ["", "a\n", "a\nb\nc\n", "a\n1\n%\n", "a\n1\nAAAA\n"])
def test_what_is_no_checkpoint_is_refused(text):
    with pytest.raises(InvalidArgument):
        Checkpoint.parse(text)
