"""COPY and ADD: which sources, where to, with which attributes."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import tarfile
from functools import partial
from pathlib import Path

import pytest

from services.image.build.context.directories import DirectoryTree
from services.image.build.context.tartree import TarTree
from services.image.build.context.tree import Entry, MemoryTree, TooManyLinks, resolve
from services.image.build.ignore import IgnoreRules
from services.image.build.steps.copying import (
    Placement,
    absolute_destination,
    check_destination,
    checksum,
    place,
    select,
)
from services.image.build.steps.layer import LayerPlan
from services.image.build.steps.owners import Mode, find_owner
from services.image.build.steps.upper import write_upper
from shared.errors import DavitError, InvalidArgument, NotFound
from tests.unit.build.fakes import FileTarget

BASE = MemoryTree(
    {
        "usr/bin/sh": b"sh",
        "bin": Entry("symlink", 0o777, link="usr/bin"),
        "etc/passwd": b"root:x:0:0::/:\nweb:x:33:44::/:\n",
        "etc/group": b"root:x:0:\nweb:x:55:\n",
        "var/run": Entry("symlink", 0o777, link="/run"),
        "run/x": b"",
        "tmp": Entry("dir", 0o1777, 5, 6),
    }
)
CONTEXT = MemoryTree(
    {
        "a.txt": b"A",
        "b.txt": b"B",
        "d/x": b"X",
        "d/sub/y": b"Y",
        "d/sub/z.o": b"Z",
        "link": Entry("symlink", 0o777, link="d"),
        "flink": Entry("symlink", 0o777, link="d/x"),
        "out": Entry("symlink", 0o777, link="../../a.txt"),
    }
)


def layer(
    tmp_path: Path, *sources: str, to: str, **options: object
) -> dict[str, tuple[str, int, int, int, bytes | str]]:
    """What a layer holds: name -> kind, mode, uid, gid, content or link."""
    parents = bool(options.pop("parents", False))
    base = MemoryTree({}) if options.pop("link", False) else BASE
    plan = LayerPlan(base, now_ns=0)
    found = [item for source in sources for item in select(CONTEXT, source, keyword="COPY", parents=parents)]
    place(plan, found, absolute_destination(to, "/work"), Placement(**options))  # type: ignore[arg-type]
    return written(plan, tmp_path)


def written(plan: LayerPlan, tmp_path: Path) -> dict[str, tuple[str, int, int, int, bytes | str]]:
    target = FileTarget(tmp_path / "layer")
    plan.write(target)
    return read(target.path)


def read(path: Path) -> dict[str, tuple[str, int, int, int, bytes | str]]:
    kinds = {tarfile.REGTYPE: "file", tarfile.DIRTYPE: "dir", tarfile.SYMTYPE: "symlink", tarfile.LNKTYPE: "hard"}
    found: dict[str, tuple[str, int, int, int, bytes | str]] = {}
    with tarfile.open(path) as tar:
        for item in tar:
            stream = tar.extractfile(item) if item.isreg() else None
            content = stream.read() if stream else item.linkname
            found[item.name] = (kinds[item.type], item.mode, item.uid, item.gid, content)
    return found


def names(found: dict[str, object] | object) -> list[str]:
    assert isinstance(found, dict)
    return list(found)


def test_file_to_new_directory(tmp_path: Path) -> None:
    assert layer(tmp_path, "a.txt", to="new/") == {
        "work": ("dir", 0o755, 0, 0, ""),
        "work/new": ("dir", 0o755, 0, 0, ""),
        "work/new/a.txt": ("file", 0o644, 0, 0, b"A"),
    }


def test_file_to_name_and_to_existing_directory(tmp_path: Path) -> None:
    assert names(layer(tmp_path, "a.txt", to="/etc/b")) == ["etc", "etc/b"]
    assert names(layer(tmp_path, "a.txt", to="/etc")) == ["etc", "etc/a.txt"]
    assert names(layer(tmp_path, "a.txt", to="/")) == ["a.txt"]


def test_links_in_the_destination_are_followed_inside_the_image(tmp_path: Path) -> None:
    assert names(layer(tmp_path, "a.txt", to="/bin/")) == ["usr", "usr/bin", "usr/bin/a.txt"]
    assert names(layer(tmp_path, "a.txt", to="/var/run/q")) == ["run", "run/q"]
    assert names(layer(tmp_path, "a.txt", to="/bin/", link=True)) == ["bin", "bin/a.txt"]


def test_existing_parents_keep_their_attributes(tmp_path: Path) -> None:
    assert layer(tmp_path, "a.txt", to="/tmp/")["tmp"] == ("dir", 0o1777, 5, 6, "")


def test_directory_means_its_content(tmp_path: Path) -> None:
    assert names(layer(tmp_path, "d", to="/o")) == ["o", "o/sub", "o/sub/y", "o/sub/z.o", "o/x"]
    assert names(layer(tmp_path, "link", to="/o/"))[-1] == "o/x"
    assert names(layer(tmp_path, "flink", to="/o/")) == ["o", "o/flink"]
    assert layer(tmp_path, ".", to="/o")["o/link"] == ("symlink", 0o777, 0, 0, "d")


def test_wildcards_and_several_sources(tmp_path: Path) -> None:
    assert names(layer(tmp_path, "*.txt", to="/o/")) == ["o", "o/a.txt", "o/b.txt"]
    assert names(layer(tmp_path, "d/*/y", "?.txt", to="/o/")) == ["o", "o/a.txt", "o/b.txt", "o/y"]
    with pytest.raises(InvalidArgument, match="must be a directory and end with a /"):
        check_destination(select(CONTEXT, "*.txt", keyword="ADD"), "/o", keyword="ADD")


def test_parents(tmp_path: Path) -> None:
    assert names(layer(tmp_path, "d/sub/y", "a.txt", to="/o/", parents=True)) == [
        "o",
        "o/a.txt",
        "o/d",
        "o/d/sub",
        "o/d/sub/y",
    ]
    assert names(layer(tmp_path, "d/./sub/y", to="/o", parents=True)) == ["o", "o/sub", "o/sub/y"]
    assert names(layer(tmp_path, "**/y", to="/o", parents=True)) == ["o", "o/d", "o/d/sub", "o/d/sub/y"]


def test_exclude(tmp_path: Path) -> None:
    rules = IgnoreRules(["**/*.o", "x"])
    assert names(layer(tmp_path, "d", to="/o", exclude=rules)) == ["o", "o/sub", "o/sub/y"]


def test_owner_and_mode(tmp_path: Path) -> None:
    found = layer(tmp_path, "d", to="/o", owner=(7, 8), mode=Mode("u=rwX,go="))
    assert found["o"][2:4] == (7, 8)
    assert found["o/x"] == ("file", 0o600, 7, 8, b"X")
    assert found["o/sub"][1] == 0o700


def test_files_in_the_way(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="not a directory"):
        layer(tmp_path, "a.txt", to="/etc/passwd/x")
    with pytest.raises(InvalidArgument, match=r"failed to copy files: failed to copy directory: .*not a directory"):
        layer(tmp_path, "d", to="/etc/passwd")


def test_nothing_outside_the_context() -> None:
    with pytest.raises(InvalidArgument, match=r"forbidden path outside the build context: \.\./x"):
        select(CONTEXT, "../x", keyword="COPY")
    assert select(CONTEXT, "/a.txt", keyword="COPY")[0].path == "a.txt"
    assert select(CONTEXT, "out", keyword="COPY")[0].path == "a.txt"  # as far up as the root of the context
    with pytest.raises(NotFound):
        select(CONTEXT, "zzz", keyword="COPY")


def test_checksum_knows_content_modes_and_names_only() -> None:
    def total(tree: MemoryTree, ownership: bool = False) -> str:
        return checksum(select(tree, "d", keyword="COPY"), ownership=ownership)

    one = total(MemoryTree({"d/x": b"1"}))
    assert one.startswith("dir:")
    assert one == total(MemoryTree({"d/x": b"1"}))
    assert one != total(MemoryTree({"d/x": b"2"}))
    assert one != total(MemoryTree({"d/y": b"1"}))
    assert one != total(MemoryTree({"d/x": b"1"}).with_mode("d/x", 0o600))
    file = checksum(select(CONTEXT, "d/x", keyword="COPY"), ownership=False)
    assert file.startswith("file:")
    # The same content under another name is another step: with a directory as the destination it has another result.
    assert file != checksum(select(CONTEXT, "flink", keyword="COPY"), ownership=False)
    assert checksum(select(CONTEXT, "?.txt", keyword="COPY"), ownership=False).startswith("multi:")


@pytest.mark.parametrize(
    ("text", "working_dir", "path"),
    [
        ("x", "/w", "/w/x"),
        ("x/", "", "/x/"),
        (".", "/w", "/w/"),
        ("./", "/w", "/w/"),
        ("/", "/w", "/"),
        ("../y", "/w", "/y"),
        ("//a//b/", "/", "/a/b/"),
    ],
)
def test_destinations(text: str, working_dir: str, path: str) -> None:
    assert absolute_destination(text, working_dir) == path


@pytest.mark.parametrize(
    ("text", "owner"), [("1", (1, 1)), ("1:2", (1, 2)), ("web", (33, 55)), ("web:root", (33, 0)), ("5:web", (5, 55))]
)
def test_owners(text: str, owner: tuple[int, int]) -> None:
    assert find_owner(text, BASE) == owner


def test_unknown_owner() -> None:
    with pytest.raises(InvalidArgument, match="can't find gid for group nope: no such group: nope"):
        find_owner("0:nope", BASE)


@pytest.mark.parametrize(
    ("text", "mode", "directory", "result"),
    [
        ("644", 0o755, False, 0o644),
        ("4755", 0, False, 0o4755),
        ("+x", 0o644, False, 0o755),
        ("go-rwx", 0o777, False, 0o700),
        ("a=rX", 0o600, False, 0o444),
        ("a=rX", 0o600, True, 0o555),
        ("u+s,g+s,+t", 0o755, True, 0o7755),
    ],
)
def test_modes(text: str, mode: int, directory: bool, result: int) -> None:
    assert Mode(text).apply(mode, directory=directory) == result


def test_bad_mode() -> None:
    with pytest.raises(InvalidArgument, match="invalid chmod parameter"):
        Mode("99x")


def make_tar(*members: tarfile.TarInfo, data: bytes = b"") -> io.BytesIO:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for member in members:
            member.size = len(data) if member.isreg() else 0
            tar.addfile(member, io.BytesIO(data))
    return buffer


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, 0o644
    return info


def spooled(tmp_path: Path, buffer: io.BytesIO) -> TarTree:
    path = tmp_path / "spool"
    path.write_bytes(buffer.getvalue())
    return TarTree.of(path.open("r+b"))


def test_hostile_names_stay_inside(tmp_path: Path) -> None:
    tree = spooled(
        tmp_path,
        make_tar(member("../../etc/x"), member("/abs"), member("l", tarfile.SYMTYPE, "/etc"), data=b"1"),
    )
    assert tree.paths() == ["abs", "etc", "etc/x", "l"]
    assert resolve(tree, "l/x")[0] == "etc/x"
    tree.close()


def test_truncated_context_is_refused(tmp_path: Path) -> None:
    whole = make_tar(member("a"), member("b"), data=b"x" * 3000).getvalue()
    for cut in (100, 1000, 2500, 4000):
        path = tmp_path / f"cut-{cut}"
        path.write_bytes(whole[:cut])
        spool = path.open("r+b")
        with pytest.raises(DavitError, match="Error processing tar file"):
            TarTree.of(spool)
        spool.close()


@pytest.mark.parametrize("form", ["gnu", "posix", "oldgnu"])
def test_long_names_and_sparse_files(tmp_path: Path, form: str) -> None:
    source = tmp_path / "source"
    long = "d" * 90 + "/" + "ä" * 60 + "/" + "f" * 99
    (source / long).parent.mkdir(parents=True)
    (source / long).write_bytes(b"long")
    with (source / "sparse").open("wb") as out:
        out.truncate(200_000)
        for at in (0, 65_536, 150_000):
            out.seek(at)
            out.write(b"data")
    (source / "after").write_bytes(b"after")
    command = ["tar", "--sparse", f"--format={form}", "-C", str(source), "-cf", str(tmp_path / "tar"), "."]
    subprocess.run(command, check=True)
    tree = TarTree.of((tmp_path / "tar").open("r+b"))
    for name in (long, "sparse", "after"):
        entry, content = tree.lookup(name), (source / name).read_bytes()
        assert entry is not None
        assert entry.size == len(content)
        assert tree.open(name).read() == content
        assert tree.digest(name) == hashlib.sha256(content).digest()
    stream = tree.open("sparse")
    assert b"".join(iter(partial(stream.read, 999), b"")) == (source / "sparse").read_bytes()
    tree.close()


def test_hard_links_in_a_context_share_content(tmp_path: Path) -> None:
    tree = spooled(tmp_path, make_tar(member("a"), member("b", tarfile.LNKTYPE, "a"), data=b"data"))
    assert tree.open("b").read() == b"data"
    plan = LayerPlan(MemoryTree({}))
    place(plan, select(tree, ".", keyword="COPY"), "/", Placement())
    assert written(plan, tmp_path)["b"][0::4] == ("hard", "a")
    tree.close()


def test_circle_of_links() -> None:
    tree = MemoryTree({"a": Entry("symlink", link="b"), "b": Entry("symlink", link="a")})
    with pytest.raises(TooManyLinks):
        resolve(tree, "a")


@pytest.mark.skipif(os.geteuid() != 0, reason="whiteouts are device nodes, which only root can make")
def test_layers_on_top_of_each_other(tmp_path: Path) -> None:
    low, high = tmp_path / "low", tmp_path / "high"
    for path in ("keep", "gone", "both/low", "opaque/low", "file/below"):
        (low / path).parent.mkdir(parents=True, exist_ok=True)
        (low / path).write_text("low")
    for path in ("both/high", "opaque/high"):
        (high / path).parent.mkdir(parents=True, exist_ok=True)
        (high / path).write_text("high")
    (high / "file").write_text("now a file")
    os.mknod(high / "gone", 0o020000, 0)
    os.setxattr(high / "opaque", "trusted.overlay.opaque", b"y")
    tree = DirectoryTree([low, high])
    assert tree.names("") == ["both", "file", "keep", "opaque"]
    assert tree.names("both") == ["high", "low"]
    assert tree.names("opaque") == ["high"]
    assert tree.lookup("gone") is None
    assert tree.lookup("file/below") is None
    assert (entry := tree.lookup("file")) is not None
    assert entry.kind == "file"
    target = FileTarget(tmp_path / "layer", tmp_path / "files")
    (tmp_path / "files").mkdir()
    result = write_upper(high, target, omit=frozenset({"file"}), take=True)
    assert result is not None
    assert result.has_files
    assert os.listxattr(tmp_path / "files" / "opaque") == ["trusted.overlay.opaque"]
    assert list(high.iterdir()) == []
    assert sorted(read(target.path)) == [
        ".wh.gone",
        "both",
        "both/high",
        "file",
        "opaque",
        "opaque/.wh..wh..opq",
        "opaque/high",
    ]


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to other users, which only root can do")
def test_files_and_tar_of_a_layer_are_the_same(tmp_path: Path) -> None:
    source = MemoryTree({"d/x": Entry("symlink", 0o777, link="y"), "d/y": b"Y", "d/fifo": Entry("fifo", 0o600)})
    plan = LayerPlan(BASE)
    place(plan, select(source, "d", keyword="COPY"), "/tmp/o", Placement((7, 8), Mode("2750")))
    (tmp_path / "files").mkdir()
    target = FileTarget(tmp_path / "tar", tmp_path / "files")
    assert plan.write(target).has_files
    tree = DirectoryTree([tmp_path / "files"])
    (tmp_path / "unpacked").mkdir()
    with tarfile.open(target.path) as tar:
        tar.extractall(tmp_path / "unpacked", filter="fully_trusted")
    for path in ("tmp", "tmp/o", "tmp/o/x", "tmp/o/y", "tmp/o/fifo"):
        here, there = tree.lookup(path), DirectoryTree([tmp_path / "unpacked"]).lookup(path)
        assert here is not None
        assert there is not None
        assert (here.kind, here.mode, here.uid, here.gid, here.link) == (
            there.kind,
            there.mode,
            there.uid,
            there.gid,
            there.link,
        )
