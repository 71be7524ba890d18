"""What a user types wrong, with the real CLI on both engines: the same exit code and, where programs read it, text."""

from __future__ import annotations

import os
import re
import subprocess
import tarfile
from pathlib import Path

import pytest

from .conftest import Asked

PORT = "127.0.0.1:18097"
BUSYBOX = ["busybox", "true"]


@pytest.fixture(scope="module", autouse=True)
def _published(davit: Asked, reference: Asked) -> None:
    for asked in (davit, reference):
        asked.engine.docker("run", "-d", "--name", "published", "-p", f"{PORT}:80", "busybox", "sleep", "9999")


def said(asked: Asked, arguments: list[str]) -> tuple[int, str]:
    """Exit code and last line of the error, with ids, generated names and the runtime's name made equal."""
    result: subprocess.CompletedProcess[str] = asked.engine.docker(*arguments, check=False)
    lines = [line for line in result.stderr.splitlines() if line.strip() and "--help" not in line]
    text = re.sub(r"[0-9a-f]{64}|[0-9a-f]{12}", "ID", lines[-1] if lines else "")
    text = re.sub(r"endpoint \w+ ", "endpoint NAME ", text).replace("davit create failed", "runc create failed")
    return result.returncode, text.replace("failed to create task for container: ", "").replace("(exit status 1)", "")


SAME = [
    ["create", "--pull", "never", "nosuch:tag"],
    ["run", "--rm", "BUSYBOX", "true"],
    ["run", "--rm", "busybox:a:b", "true"],
    ["tag", "busybox", "BAD//x"],
    ["tag", "nosuch", "x:y"],
    ["run", "--name", "probe", *BUSYBOX],
    ["run", "--rm", "-u", "nosuch", *BUSYBOX],
    ["run", "--rm", "-u", "0:nosuch", *BUSYBOX],
    ["run", "--rm", "-u", "99999999999", *BUSYBOX],
    ["run", "--rm", "busybox", "nosuch"],
    ["run", "--rm", "busybox", "/etc"],
    ["run", "--rm", "busybox", "/etc/passwd"],
    ["run", "--rm", "busybox", "/nosuch/path"],
    ["run", "--rm", "--mount", "type=bind,source=/nosuch/dir,target=/x", *BUSYBOX],
    ["run", "--rm", "--mount", "type=bind,source=rel,target=/x", *BUSYBOX],
    ["run", "--rm", "-v", "/tmp:/x:foo", *BUSYBOX],
    ["run", "--rm", "-v", "/tmp:x", *BUSYBOX],
    ["run", "--rm", "-v", "a/b:/x", *BUSYBOX],
    ["run", "--rm", "-v", "/tmp:/x", "-v", "/etc:/x", *BUSYBOX],
    ["run", "--rm", "-p", f"{PORT}:80", *BUSYBOX],
    ["run", "--rm", "-m", "1m", *BUSYBOX],
    ["run", "--rm", "-m", "abc", *BUSYBOX],
    ["run", "--rm", "-m", "10m", "--memory-swap", "7m", *BUSYBOX],
    ["run", "--rm", "--cpus", "999", *BUSYBOX],
    ["run", "--rm", "--cpus", "-1", *BUSYBOX],
    ["run", "--rm", "--cpuset-cpus", "99", *BUSYBOX],
    ["run", "--rm", "--cpu-period", "5", *BUSYBOX],
    ["run", "--rm", "--network", "nosuch", *BUSYBOX],
    ["run", "--rm", "--network", "container:nosuch", *BUSYBOX],
    ["run", "--rm", "--network", "container:made", *BUSYBOX],
    ["run", "--rm", "--ip", "10.0.0.1", *BUSYBOX],
    ["run", "--rm", "--network", "net", "--ip", "10.99.99.99", *BUSYBOX],
    ["run", "--rm", "--link", "nosuch", *BUSYBOX],
    ["run", "--rm", "--volumes-from", "nosuch", *BUSYBOX],
    ["run", "--rm", "-w", "rel", *BUSYBOX],
    ["run", "--rm", "--restart", "always", *BUSYBOX],
    ["run", "--rm", "--log-driver", "foo", *BUSYBOX],
    ["run", "--rm", "--log-opt", "foo=1", *BUSYBOX],
    ["run", "--rm", "--device", "/dev/nosuch", *BUSYBOX],
    ["run", "--rm", "--stop-signal", "FOO", *BUSYBOX],
    ["run", "--rm", "--tmpfs", "/", *BUSYBOX],
    ["rm", "nosuch"],
    ["rmi", "nosuch"],
    ["exec", "nosuch", "true"],
    ["exec", "-u", "nosuch", "probe", "true"],
    ["cp", "probe:/nosuch", "/tmp"],
    ["cp", "/etc/passwd", "probe:/no/such/dir/"],
    ["network", "rm", "nosuch"],
    ["network", "connect", "nosuch", "probe"],
    ["network", "create", "net"],
    ["volume", "rm", "nosuch"],
    ["volume", "create", "a b"],
    ["volume", "create", "x"],
    ["kill", "-s", "FOO", "probe"],
    ["stop", "nosuch"],
    ["start", "nosuch"],
    ["rename", "probe", "made"],
    ["rename", "probe", "a b"],
    ["update", "-m", "1m", "probe"],
    ["commit", "nosuch"],
    ["commit", "probe", "BAD"],
    ["export", "nosuch"],
    ["inspect", "nosuch"],
    ["top", "probe", "-x", "nope"],
    ["service", "ls"],
    ["swarm", "leave"],
]


@pytest.mark.parametrize("arguments", SAME, ids=" ".join)
def test_the_same_is_said(davit: Asked, reference: Asked, arguments: list[str]) -> None:
    theirs = said(reference, arguments)
    assert theirs[0] != 0
    assert said(davit, arguments) == theirs


# The reference (20.10) and later engines differ here; the text is that of later ones.
SAME_CODE = [
    (["rm", "probe"], "container is running: stop the container before removing or force remove"),
    (["exec", "made", "true"], "is not running"),
    (["kill", "made"], "is not running"),
    (["top", "made"], "is not running"),
    (["run", "--rm", "--runtime", "foo", *BUSYBOX], "unknown or invalid runtime name: foo"),
    (["run", "--rm", "--cpu-shares", "-1", *BUSYBOX], "invalid CPU shares (-1): value must be a positive integer"),
    (["update", "--restart", "foo", "probe"], "invalid restart policy: unknown policy 'foo'"),
    (["ps", "--filter", "foo=bar"], "invalid filter 'foo'"),
    (["ps", "--filter", "status=foo"], "invalid filter 'status=foo'"),
    (["network", "disconnect", "net", "made"], "is not connected to network net"),
]


@pytest.mark.parametrize(("arguments", "text"), SAME_CODE, ids=lambda value: " ".join(value)[:60])
def test_the_same_code_and_a_later_engines_text(
    davit: Asked, reference: Asked, arguments: list[str], text: str
) -> None:
    code, line = said(davit, arguments)
    assert code == said(reference, arguments)[0]
    assert text in line


@pytest.mark.parametrize("command", [["import"], ["load", "-i"]], ids=" ".join)
@pytest.mark.parametrize("kind", ["garbage", "truncated"])
def test_archives_that_are_none(davit: Asked, reference: Asked, tmp_path: Path, command: list[str], kind: str) -> None:
    """The reference tells it within its progress, davit at once; both leave no image."""
    file = tmp_path / "archive.tar"
    if kind == "garbage":
        file.write_bytes(b"no tar at all")
    else:
        with tarfile.open(file, "w") as tar:
            tar.add("/bin/busybox", "busybox")
        os.truncate(file, 2000)
    for asked in (davit, reference):
        before = asked.engine.docker("images", "-aq").stdout
        code, line = said(asked, [*command, str(file)])
        assert code == 1
        assert "unexpected EOF" in line
        assert asked.engine.docker("images", "-aq").stdout == before
