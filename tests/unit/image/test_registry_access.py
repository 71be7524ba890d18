"""Rights of users, and the tokens that they get."""

from __future__ import annotations

import base64
import json
import os
import time
from pathlib import Path

import pytest

from services.image.server.rights import Rights
from services.image.server.tokens import TOKEN_S, Bearer, Scope, Tokens, parse_scopes
from shared.errors import InvalidArgument, Unavailable

RULES = [
    {"users": ["ci"], "repositories": ["team/*", "one"], "actions": ["pull", "push"]},
    {"users": ["ci", "boss"], "repositories": ["team/app"], "actions": ["delete"]},
    {"users": ["@users"], "repositories": ["shared/*/tool"], "actions": ["pull"]},
    {"users": ["@anonymous"], "repositories": ["public/*"], "actions": ["pull"]},
]


@pytest.fixture
def rights(tmp_path: Path) -> Rights:
    path = tmp_path / "rights"
    path.write_text(json.dumps(RULES))
    return Rights(path)


@pytest.mark.parametrize(
    ("user", "repository", "actions"),
    [
        ("ci", "team/app", {"pull", "push", "delete"}),
        ("ci", "team/deep/er", {"pull", "push"}),
        ("ci", "one", {"pull", "push"}),
        ("ci", "one/more", set()),
        ("ci", "ateam/app", set()),
        ("boss", "team/app", {"delete"}),
        ("somebody", "shared/a/b/tool", {"pull"}),
        ("", "shared/a/tool", set()),
        ("", "public/x", {"pull"}),
        ("somebody", "public/x", {"pull"}),
        ("@users", "team/app", set()),
    ],
)
def test_rules_add_up(rights: Rights, user: str, repository: str, actions: set[str]) -> None:
    assert rights.of(user, repository) == actions


def test_without_rules_users_may_do_everything_and_others_nothing() -> None:
    rights = Rights(None)
    assert rights.of("ci", "any/thing") == {"pull", "push", "delete"}
    assert rights.of("", "any/thing") == set()
    assert not rights.name_anybody


def test_a_changed_file_counts_at_once(rights: Rights, tmp_path: Path) -> None:
    assert rights.name_anybody
    path = tmp_path / "rights"
    path.write_text("[]")
    os.utime(path, (1, 1))
    assert rights.of("ci", "team/app") == set()
    assert not rights.name_anybody


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("{", "Invalid JSON"),
        ('[{"users": ["a"], "repositories": ["*"], "actions": ["admin"]}]', "0.actions.0"),
        ('[{"users": [], "repositories": ["*"], "actions": []}]', "0.users"),
        ('[{"users": ["a"], "repositories": ["*"], "actions": [], "more": 1}]', "0.more"),
    ],
)
def test_wrong_rules_are_named(tmp_path: Path, text: str, where: str) -> None:
    path = tmp_path / "rights"
    path.write_text(text)
    with pytest.raises(InvalidArgument, match=where):
        Rights(path)
    with pytest.raises(Unavailable, match="cannot be read"):
        Rights(tmp_path / "none")


def test_scopes_as_clients_write_them() -> None:
    texts = ["repository:team/app:pull,push repository:x:*", "registry:catalog:*", "nonsense", "repository::pull"]
    assert [str(scope) for scope in parse_scopes(texts)] == [
        "repository:team/app:pull,push",
        "repository:x:*",
        "registry:catalog:*",
    ]


def test_tokens_say_what_was_granted_and_end() -> None:
    tokens = Tokens(b"key", "here")
    bearer = Bearer("ci", (Scope("repository", "a", frozenset(("pull",))),))
    token = tokens.make(bearer, time.time())
    assert tokens.read(token) == bearer
    assert bearer.allows(Scope("repository", "a", frozenset(("pull",))))
    for wanted in (("repository", "a", {"pull", "push"}), ("repository", "b", {"pull"}), ("registry", "a", {"pull"})):
        assert not bearer.allows(Scope(wanted[0], wanted[1], frozenset(wanted[2])))
    assert tokens.read(tokens.make(bearer, time.time() - TOKEN_S - 1)) is None


def test_tokens_of_others_are_none() -> None:
    tokens = Tokens(b"key", "here")
    bearer = Bearer("ci", ())
    token = tokens.make(bearer, time.time())
    head, claims, signature = token.split(".")
    forged = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4))) | {"sub": "boss"}
    other = base64.urlsafe_b64encode(json.dumps(forged).encode()).decode().rstrip("=")
    unsigned = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').decode().rstrip("=")
    for bad in ("", ".", "..", "a.b.c", f"{head}.{other}.{signature}", f"{unsigned}.{claims}.", f"{head}.{claims}."):
        assert tokens.read(bad) is None
    assert Tokens(b"other key", "here").read(token) is None
    assert Tokens(b"key", "elsewhere").read(token) is None
