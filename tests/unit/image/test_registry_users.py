"""The file of the registry's users, and the credentials that clients send to others."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.image.registry.auth import Credentials
from services.image.server.users import Users
from shared.contracts.images import RegistryAuth
from shared.errors import InvalidArgument
from tests.lab.registry import bcrypt


def users_of(tmp_path: Path, text: str) -> Users:
    path = tmp_path / "users"
    path.write_text(text)
    return Users(path)


def test_who_is_in_the_file_with_that_password_may(tmp_path):
    users = users_of(tmp_path, f"# staff\nann:{bcrypt('secret')}\nbob:{bcrypt('o' * 80)}\n")
    assert users.allow("ann", "secret")
    assert not users.allow("ann", "secret2")
    assert not users.allow("", "secret")
    assert not users.allow("eve", "secret")
    assert users.allow("bob", "o" * 80)  # bcrypt looks at 72 bytes, as in htpasswd


def test_what_other_programs_have_written_is_read(tmp_path):
    # From the vectors of Openwall's crypt_blowfish.
    users = users_of(tmp_path, "u:$2y$05$/OK.fbVrR/bpIqNJ5ianF.CE5elHaaO4EbggVDjb8P19RukzXSM3e\n")
    assert not users.allow("u", "wrong")
    users = users_of(tmp_path, "u:$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW\n")
    assert users.allow("u", "U*U")


@pytest.mark.parametrize("known", ["$6$salt$hash", "{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", "secret", "$2y$05$short", ""])
def test_hashes_that_are_not_bcrypts_are_refused_by_name(tmp_path, known):
    with pytest.raises(InvalidArgument, match="the hash of ann is none of bcrypt's"):
        users_of(tmp_path, f"ann:{known}\n")


@pytest.mark.parametrize("text", ["ä", "abc", "\udc80"])
def test_credentials_that_are_no_base64_are_refused(text):
    with pytest.raises(InvalidArgument, match="auth is no base64"):
        Credentials(RegistryAuth(auth=text))


@pytest.mark.parametrize("text", ["ä", "a\r\nb", "\x00"])
def test_tokens_that_no_header_can_carry_are_refused(text):
    with pytest.raises(InvalidArgument, match="registrytoken is no token"):
        Credentials(RegistryAuth(registry_token=text))
