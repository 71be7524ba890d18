"""What programs in a container find, and what the engine says that they changed."""

from __future__ import annotations

import io
import tarfile

import pytest

from tests.lab.engine import Engine

pytestmark = pytest.mark.root


def test_the_files_that_tell_a_container(engine: Engine) -> None:
    text = engine.docker("run", "--rm", "busybox", "sh", "-c", "ls /.dockerenv; readlink /etc/mtab").stdout
    assert text == "/.dockerenv\n/proc/mounts\n"


def test_the_primary_group_is_among_the_groups(engine: Engine) -> None:
    """Programs that give up their primary group must not thereby lose a "deny" for it (CVE-2022-36109)."""
    engine.docker("run", "-d", "--name", "box", "busybox", "sleep", "1000")
    for flags, groups in (([], "0"), (["-u", "65534"], "65534"), (["-u", "0:7"], "7")):
        assert engine.docker("run", "--rm", *flags, "busybox", "grep", "Groups", "/proc/self/status").stdout.split()[
            1:
        ] == [groups]
        assert engine.docker("exec", *flags, "box", "grep", "Groups", "/proc/self/status").stdout.split()[1:] == [
            groups
        ]


def test_changes_are_those_of_the_container(engine: Engine) -> None:
    """In an image that has nothing but a program; so also in what a commit of it keeps."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        tar.add("/bin/busybox", "busybox")
    engine.docker_popen("import", "-", "bare", stdin=-1).communicate(data.getvalue(), 30)
    flags = ["-v", "/tmp:/deep/down", "-v", "vol:/vol", "--tmpfs", "/fleeting"]
    command = ["/busybox", "sh", "-c", "echo > /etc/own; /busybox mkdir /made"]
    engine.docker("run", "--name", "changing", *flags, "bare", *command)
    assert sorted(engine.docker("diff", "changing").stdout.splitlines()) == [
        "A /deep",
        "A /deep/down",
        "A /etc/own",
        "A /fleeting",
        "A /made",
        "A /vol",
        "C /etc",
    ]
    for image, command in (("bare", ["/busybox"]), ("busybox", ["true"])):
        engine.docker("run", "--name", f"idle-{image}", image, *command)
        assert engine.docker("diff", f"idle-{image}").stdout == ""
