"""The engine as the client of what a client serves."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, closing
from pathlib import Path

import pytest

from services.image.build.context.tree import walk
from services.image.buildkit.contexts import Contexts, SyncedTree
from services.image.buildkit.filesync import Wanted, read_small
from services.image.buildkit.sessions import Session, Sessions
from shared.errors import DavitError, InvalidArgument, NotFound
from tests.unit.buildkit.client import GO_DIR, GO_SYMLINK, Directory, session, stat


async def ignore(_: int) -> None:
    return


def directory() -> Directory:
    listing = [
        stat("a", size=3),
        stat("d", mode=GO_DIR | 0o755),
        stat("d/big", size=5000, mode=0o600),
        stat("d/same", size=5000, linkname="d/big"),
        stat("link", mode=GO_SYMLINK | 0o777, linkname="d/big"),
    ]
    return Directory(listing, {"a": b"abc", "d/big": b"x" * 5000})


async def receive(client: Session, contexts: Contexts, stack: AsyncExitStack) -> SyncedTree:
    return await contexts.receive(client, Wanted("context"), ignore, stack)


def content(tree: SyncedTree, path: str) -> bytes:
    with closing(tree.open(path)) as stream:
        return stream.read()


async def test_a_directory_comes_whole_and_then_only_changes(tmp_path: Path) -> None:
    theirs = directory()
    contexts = Contexts(tmp_path / "contexts")
    async with session(tmp_path, {"context": theirs}) as client:
        async with AsyncExitStack() as stack:
            tree = await receive(client, contexts, stack)
            kinds = {path: entry.kind for path, entry in walk(tree, "")}
            assert kinds == {"a": "file", "d": "dir", "d/big": "file", "d/same": "file", "link": "symlink"}
            assert content(tree, "d/big") == b"x" * 5000
            same, big = tree.lookup("d/same"), tree.lookup("d/big")
            assert same is not None
            assert big is not None
            assert same.identity == big.identity is not None
            assert big.mode == 0o600
            assert sorted(theirs.asked) == ["a", "d/big"]
            assert tree.digest("d/same") == tree.digest("d/big")
        theirs.asked.clear()
        async with AsyncExitStack() as stack:
            tree = await receive(client, contexts, stack)
            assert theirs.asked == []
        theirs.listing[0] = stat("a", size=4)
        theirs.content = {**theirs.content, "a": b"abcd"}
        del theirs.listing[3:]
        async with AsyncExitStack() as stack:
            tree = await receive(client, contexts, stack)
            assert theirs.asked == ["a"]
            assert content(tree, "a") == b"abcd"
            assert tree.names("d") == ["big"]
            assert tree.lookup("link") is None
            assert not (next(iter(contexts.entries())) / "files/link").exists()


async def test_two_builds_at_once_have_copies_of_their_own(tmp_path: Path) -> None:
    contexts = Contexts(tmp_path / "contexts")
    async with session(tmp_path, {"context": directory()}) as client, AsyncExitStack() as stack:
        first = await receive(client, contexts, stack)
        second = await receive(client, contexts, stack)
        assert len(contexts.entries()) == 2
        assert content(first, "a") == content(second, "a") == b"abc"
        assert all(contexts.in_use(path) for path in contexts.entries())
        assert not any(contexts.remove(path) for path in contexts.entries())


async def test_a_transfer_that_was_cut_short_goes_on(tmp_path: Path) -> None:
    theirs = directory()
    contexts = Contexts(tmp_path / "contexts")
    async with session(tmp_path, {"context": theirs}) as client:
        async with AsyncExitStack() as stack:
            await receive(client, contexts, stack)
        copy = next(iter(contexts.entries()))
        (copy / "index").unlink()  # as after a kill in the midst of changes
        (copy / "files/a").write_bytes(b"ab")
        theirs.asked.clear()
        async with AsyncExitStack() as stack:
            tree = await receive(client, contexts, stack)
            assert theirs.asked == ["a"]
            assert content(tree, "a") == b"abc"


async def test_small_files_and_what_the_client_is_asked(tmp_path: Path) -> None:
    theirs = directory()
    async with session(tmp_path, {"context": theirs}) as client:
        wanted = Wanted("context", follow=["a", "ä"], exclude=["*.md"])
        assert await read_small(client, wanted, ignore) == {
            "a": b"abc", "d/big": b"x" * 5000, "link": b"x" * 5000
        }  # fmt: skip
        told = theirs.metadata[0]
        assert told["exclude-patterns"] == "*.md"
        assert told["followpaths-encoded"] == "1"
        with pytest.raises(DavitError, match="no access allowed"):
            await read_small(client, Wanted("other"), ignore)


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../b", "d//x", "missing/parent"])
async def test_paths_that_lead_elsewhere_are_refused(path: str, tmp_path: Path) -> None:
    theirs = Directory([stat(path, size=1)], {path: b"x"})
    async with session(tmp_path, {"context": theirs}) as client, AsyncExitStack() as stack:
        with pytest.raises(InvalidArgument, match="the client sent"):
            await receive(client, Contexts(tmp_path / "contexts"), stack)


async def test_thousands_of_files_in_messages_of_their_own(tmp_path: Path) -> None:
    theirs = Directory([stat(f"f{number:05}", size=0) for number in range(2_000)], {})
    async with session(tmp_path, {"context": theirs}) as client, AsyncExitStack() as stack:
        theirs.content = {item.path: b"" for item in theirs.listing}
        tree = await receive(client, Contexts(tmp_path / "contexts"), stack)
        assert len(tree.names("")) == 2_000


async def test_secrets_and_credentials(tmp_path: Path) -> None:
    async with session(tmp_path, {}) as client:
        assert await client.secret("known") == b"value"
        assert await client.secret("other") is None
        found = await client.credentials("r.example")
        assert found is not None
        assert (found.username, found.password) == ("me", "pw")
        assert await client.credentials("other.example") is None
        assert await client.has_agent("default")
        assert not await client.has_agent("other")


async def test_a_session_that_does_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.image.buildkit.sessions.APPEARS_WITHIN_S", 0.01)
    with pytest.raises(NotFound, match="no active session for nobody"):
        await Sessions().get("nobody")


async def test_an_agent_is_reached_through_a_socket(tmp_path: Path) -> None:
    async with session(tmp_path, {}) as client, AsyncExitStack() as stack:
        place = tmp_path / "agent"
        assert await client.listen("default", place, stack)
        reader, writer = await asyncio.open_unix_connection(str(place))
        writer.write(b"question")
        assert await reader.readexactly(16) == b"default:question"
        writer.close()
        await writer.wait_closed()
        assert not await client.listen("other", tmp_path / "none", stack)
    assert not place.exists()
