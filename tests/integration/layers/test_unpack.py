"""Unpacking and packing for real: files, devices, attributes, whiteouts, and archives that mean harm."""

from __future__ import annotations

import io
import os
import stat
import struct
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from shared.errors import InvalidArgument, NotFound
from shared.layers import changes
from shared.layers.worker import Packer, Unpacked, Unpacker

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: chroot, owners, devices"),
]
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)  # cap_net_bind_service=ep

CAPABILITY_TEXT = CAPABILITY.decode("utf-8", "surrogateescape")


class Tar:
    """An archive in the making."""

    def __init__(self) -> None:
        self._out = io.BytesIO()
        self._tar = tarfile.open(fileobj=self._out, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115

    def add(self, name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, **attributes: object) -> Tar:
        info = tarfile.TarInfo(name)
        info.type, info.size = kind, len(data)
        for key, value in attributes.items():
            setattr(info, key, value)
        self._tar.addfile(info, io.BytesIO(data))
        return self

    def data(self) -> bytes:
        self._tar.close()
        return self._out.getvalue()


def unpack(root: Path, data: bytes, **options: object) -> Unpacked:
    with Unpacker(root, **options) as child:  # type: ignore[arg-type]
        child.write(data)
        return child.unpacked()


def pack(root: Path, **options: object) -> bytes:
    with Packer(root, **options) as child:  # type: ignore[arg-type]
        data = b"".join(iter(child.read, b""))
        child.result()
        return data


@pytest.fixture
def root(tmp_path: Path) -> Path:
    directory = tmp_path / "root"
    directory.mkdir()
    return directory


def test_files_keep_what_they_have(root: Path) -> None:
    long_name = "d" * 200 + "/" + "f" * 250
    data = (
        Tar()
        .add("bin", kind=tarfile.DIRTYPE, mode=0o1777, mtime=11)
        .add("bin/su", b"program", mode=0o4755, uid=1, gid=2, mtime=1_000_000_000)
        .add("bin/ping", b"x", mode=0o755, pax_headers={"SCHILY.xattr.security.capability": CAPABILITY_TEXT})
        .add("bin/link", kind=tarfile.LNKTYPE, linkname="bin/su")
        .add("lib", kind=tarfile.SYMTYPE, linkname="usr/lib", uid=7, mtime=22)
        .add("null", kind=tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666)
        .add("pipe", kind=tarfile.FIFOTYPE, mode=0o600)
        .add(long_name, b"long")
        .add("fraction", mtime=1.5)
        .add("owner", uid=3_000_000_000, gid=3_000_000_001)
        .data()
    )
    outcome = unpack(root, data)
    su, link = os.stat(root / "bin/su"), os.lstat(root / "lib")
    assert (stat.S_IMODE(su.st_mode), su.st_uid, su.st_gid, su.st_mtime_ns, su.st_nlink) == (0o4755, 1, 2, 10**18, 2)
    assert (root / "bin/link").samefile(root / "bin/su")
    assert os.getxattr(root / "bin/ping", "security.capability") == CAPABILITY
    assert stat.S_IMODE(os.stat(root / "bin").st_mode) == 0o1777
    assert os.stat(root / "bin").st_mtime == 11
    assert (os.readlink(root / "lib"), link.st_uid, link.st_mtime) == ("usr/lib", 7, 22)
    assert os.stat(root / "null").st_rdev == os.makedev(1, 3)
    assert stat.S_ISFIFO(os.stat(root / "pipe").st_mode)
    assert (root / long_name).read_bytes() == b"long"
    assert os.stat(root / "fraction").st_mtime_ns == 1_500_000_000
    assert os.stat(root / "owner").st_uid == 3_000_000_000
    assert outcome.size_bytes == len(b"program") + 1 + 4 + len("usr/lib")
    assert outcome.entries == 10


def test_sparse_files_stay_sparse(root: Path, tmp_path: Path) -> None:
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.truncate(50_000_000)
        file.seek(20_000_000)
        file.write(b"middle")
    for form in (
        "--format=gnu",
        "--format=pax --sparse-version=0.0",
        "--format=pax --sparse-version=0.1",
        "--format=pax --sparse-version=1.0",
    ):
        data = subprocess.run(
            ["tar", "-C", str(tmp_path), "--sparse", *form.split(), "-c", "big"], capture_output=True, check=True
        ).stdout
        unpack(root, data)
        status = os.stat(root / "big")
        assert (status.st_size, status.st_blocks * 512 < 1_000_000) == (50_000_000, True), form
        with (root / "big").open("rb") as file:
            file.seek(20_000_000)
            assert file.read(6) == b"middle", form
        (root / "big").unlink()


def is_whiteout(path: Path) -> bool:
    status = os.lstat(path)
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def is_opaque(path: Path) -> bool:
    try:
        return os.getxattr(path, "trusted.overlay.opaque") == b"y"
    except OSError:
        return False


def test_whiteouts_become_overlayfs_own(root: Path) -> None:
    unpack(
        root,
        Tar()
        .add("a/.wh.gone")
        .add("new", kind=tarfile.DIRTYPE)
        .add("new/.wh..wh..opq")
        .add(".wh.replaced")
        .add("replaced", kind=tarfile.DIRTYPE)
        .add(".wh.refilled")
        .add("refilled/file", b"1")
        .add(".wh..wh.plnk", kind=tarfile.DIRTYPE)
        .data(),
    )
    assert is_whiteout(root / "a/gone")
    assert is_opaque(root / "new")
    assert is_opaque(root / "replaced")
    assert is_opaque(root / "refilled")
    assert sorted(os.listdir(root)) == ["a", "new", "refilled", "replaced"]


def test_what_was_packed_unpacks_the_same(root: Path, tmp_path: Path) -> None:
    unpack(
        root,
        Tar()
        .add("d", kind=tarfile.DIRTYPE, mode=0o2775, uid=5)
        .add("d/.wh..wh..opq")
        .add("d/f", b"data" * 100_000, mode=0o4711, mtime=5)
        .add("d/g", kind=tarfile.LNKTYPE, linkname="d/f")
        .add("é" * 80, kind=tarfile.SYMTYPE, linkname="ü" * 120)
        .add(".wh.x")
        .add("tty", kind=tarfile.CHRTYPE, devmajor=5, devminor=0)
        .data(),
    )
    again = tmp_path / "again"
    again.mkdir()
    data = pack(root, layer=True)
    assert unpack(again, data).diff_id == unpack(new_directory(tmp_path), data).diff_id
    assert pack(again, layer=True) == data
    assert is_whiteout(again / "x")
    assert is_opaque(again / "d")


def new_directory(tmp_path: Path) -> Path:
    third = tmp_path / "third"
    third.mkdir()
    return third


HOSTILE = {
    "absolute": Tar().add("/escape", b"x"),
    "dotdot": Tar().add("../../escape", b"x"),
    "deep dotdot": Tar().add("a/../../../escape", b"x"),
    "through an absolute link": Tar().add("l", kind=tarfile.SYMTYPE, linkname="/OUTSIDE").add("l/escape", b"x"),
    "through a relative link": Tar().add("l", kind=tarfile.SYMTYPE, linkname="../outside").add("l/escape", b"x"),
    "over a link to a file": Tar().add("l", kind=tarfile.SYMTYPE, linkname="/OUTSIDE/victim").add("l", b"x"),
    "hard link out": Tar().add("h", kind=tarfile.LNKTYPE, linkname="../outside/victim"),
    "hard link through a link": Tar()
    .add("l", kind=tarfile.SYMTYPE, linkname="../outside")
    .add("h", kind=tarfile.LNKTYPE, linkname="l/victim")
    .add("h", b"x"),
    "whiteout out": Tar().add("../outside/.wh.victim"),
    "opaque out": Tar().add("l", kind=tarfile.SYMTYPE, linkname="../outside").add("l/.wh..wh..opq"),
    "directory over a link": Tar()
    .add("l", kind=tarfile.SYMTYPE, linkname="../outside")
    .add("l", kind=tarfile.DIRTYPE, mode=0)
    .add("l/escape", b"x"),
    "self link": Tar().add("s", kind=tarfile.LNKTYPE, linkname="s"),
    "overlay attribute": Tar().add("f", b"", pax_headers={"SCHILY.xattr.trusted.overlay.redirect": "/x"}),
    "device that means removed": Tar().add("f", kind=tarfile.CHRTYPE, devmajor=0, devminor=0),
    "root is a file": Tar().add(".", b"x"),
    "unknown kind": Tar().add("f", kind=b"Z"),
    "whiteout of the parent": Tar().add(".wh..."),
    "empty whiteout": Tar().add("a/.wh."),
}


@pytest.fixture(params=sorted(HOSTILE))
def hostile(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[bytes]:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "victim").write_text("untouched")
    yield HOSTILE[request.param].data().replace(b"/OUTSIDE", str(outside).encode()[:8].ljust(8, b"/"))
    assert (outside / "victim").read_text() == "untouched"
    assert os.listdir(outside) == ["victim"]
    assert not is_opaque(outside)
    assert stat.S_IMODE(os.stat(outside).st_mode) == 0o755
    assert sorted(os.listdir(tmp_path)) in (["outside"], ["outside", "root"])
    assert not Path("/escape").exists()


def test_no_archive_reaches_out(hostile: bytes, root: Path) -> None:
    with suppress(InvalidArgument):  # refusing is right, too; the fixture looks outside
        unpack(root, hostile)


def test_limits(root: Path) -> None:
    many = Tar()
    for number in range(20):
        many.add(f"f{number}", b"0123456789")
    data = many.data()
    with pytest.raises(InvalidArgument, match="more than 10 entries"):
        unpack(root, data, max_entries=10)
    with pytest.raises(InvalidArgument, match="more than 100 bytes"):
        unpack(root, data, max_bytes=100)


def test_a_truncated_archive_is_an_error(root: Path) -> None:
    data = Tar().add("f", b"x" * 5000).data()
    with pytest.raises(InvalidArgument, match="unexpected EOF"):
        unpack(root, data[:3000])


def test_packing_does_not_follow_links_out(root: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (root / "l").symlink_to(tmp_path)
    (root / "f").symlink_to(tmp_path / "secret")
    assert b"secret" not in pack(root, path="/f", name="f").replace(b"/secret", b"")
    with pytest.raises(NotFound):
        pack(root, path="/l/secret", name="s")


def test_a_path_is_packed_under_another_name(root: Path) -> None:
    (root / "etc").mkdir()
    (root / "etc/passwd").write_text("root")
    with tarfile.open(fileobj=io.BytesIO(pack(root, path="/etc", name="conf"))) as tar:
        assert tar.getnames() == ["conf", "conf/passwd"]
    with tarfile.open(fileobj=io.BytesIO(pack(root, exclude=["etc/passwd"]))) as tar:
        assert tar.getnames() == ["etc"]


def test_plain_archives_keep_kinds_when_asked(root: Path) -> None:
    (root / "d").mkdir()
    with pytest.raises(InvalidArgument, match="cannot overwrite directory"):
        unpack(root, Tar().add("d", b"file").data(), layer=False, keep_kinds=True)
    unpack(root, Tar().add(".wh.x", b"plain").data(), layer=False, owner=(12, 34))
    assert (os.stat(root / ".wh.x").st_uid, os.stat(root / ".wh.x").st_gid) == (12, 34)


def test_changes_are_listed_as_docker_diff_does(tmp_path: Path) -> None:
    lower, upper = tmp_path / "lower", tmp_path / "upper"
    for directory in (lower / "etc", lower / "old", upper / "etc", upper / "old", upper / "new"):
        directory.mkdir(parents=True)
    (lower / "etc/passwd").write_text("1")
    (lower / "etc/gone").write_text("1")
    (lower / "old/file").write_text("1")
    (upper / "etc/passwd").write_text("2")
    (upper / "new/file").write_text("3")
    os.mknod(upper / "etc/gone", stat.S_IFCHR, 0)
    os.setxattr(upper / "old", "trusted.overlay.opaque", b"y")
    assert changes.listed(upper, [lower]) == [
        (changes.MODIFIED, "/etc"),
        (changes.DELETED, "/etc/gone"),
        (changes.MODIFIED, "/etc/passwd"),
        (changes.ADDED, "/new"),
        (changes.ADDED, "/new/file"),
        (changes.MODIFIED, "/old"),
        (changes.DELETED, "/old/file"),
    ]


def test_shallow_directories_are_packed_without_what_is_in_them(root: Path) -> None:
    (root / "proc/1").mkdir(parents=True)
    (root / "srv/proc").mkdir(parents=True)
    (root / "srv/proc/file").touch()
    with tarfile.open(fileobj=io.BytesIO(pack(root, shallow=["proc"]))) as tar:
        assert tar.getnames() == ["proc", "srv", "srv/proc", "srv/proc/file"]
    with tarfile.open(fileobj=io.BytesIO(pack(root, path="/proc", name="proc", shallow=["."]))) as tar:
        assert tar.getnames() == ["proc"]
