"""Contexts and files from elsewhere: repositories and web servers beside both engines; the same files come out."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import docker
import pytest

from tests.conformance.build.conftest import BuildEngine, Outcome
from tests.conformance.build.test_shapes import File, directory, tar
from tests.lab.engine import eventually
from tests.lab.netns import run

HTTP, GIT = "http://127.0.0.1:8000", "git://127.0.0.1"
DOCKERFILE = b"FROM busybox\nCOPY . /ctx/\n"


def git(directory_: Path, *arguments: str) -> str:
    command = ["git", "-C", str(directory_), "-c", "user.name=t", "-c", "user.email=t@example.org", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def make_repository(place: Path) -> str:
    """master: f=master, sub/; branch other: f=other; tag v1: f=one. The commit that v1 names."""
    work = place / "work"
    work.mkdir()
    git(work, "init", "-q", "-b", "master")
    for text, tag in (("one", "v1"), ("master", "")):
        (work / "f").write_text(text)
        (work / "Dockerfile").write_bytes(DOCKERFILE)
        (work / "sub").mkdir(exist_ok=True)
        (work / "sub" / "Dockerfile").write_bytes(DOCKERFILE)
        (work / "sub" / "g").write_text(f"sub {text}")
        git(work, "add", ".")
        git(work, "commit", "-q", "-m", text)
        if tag:
            git(work, "tag", tag)
    git(work, "checkout", "-q", "-b", "other")
    (work / "f").write_text("other")
    git(work, "commit", "-q", "-a", "-m", "other")
    git(work, "checkout", "-q", "master")
    git(place, "clone", "-q", "--bare", str(work), str(place / "repo.git"))
    git(place / "repo.git", "update-server-info")
    return git(work, "rev-parse", "v1")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("served")
    (place / "v1").write_text(make_repository(place))
    context = tar({"Dockerfile": File(DOCKERFILE), "d": directory(0o700, 3), "d/f": File(b"F", 0o640, 3)})
    (place / "context.tar").write_bytes(context)
    (place / "context.tgz").write_bytes(gzip.compress(context))
    (place / "Dockerfile").write_bytes(b"FROM busybox\nRUN echo alone > /alone\n")
    (place / "page.html").write_bytes(b"<html></html>")
    (place / "file.txt").write_bytes(b"text")
    for name in ("file.txt", "context.tar", "context.tgz"):
        os.utime(place / name, (1_500_000_000, 1_500_000_000))
    return place


@pytest.fixture(scope="module", autouse=True)
def servers(place: Path, davit: BuildEngine, reference: BuildEngine) -> Iterator[None]:
    """An HTTP server and a git daemon in each engine's network namespace."""
    with ExitStack() as stack:
        for engine in (davit, reference):
            enter = engine.engine.netns.enter
            for command in (
                [sys.executable, "-m", "http.server", "8000", "--bind", "127.0.0.1", "--directory", str(place)],
                ["git", "daemon", f"--base-path={place}", "--export-all", "--listen=127.0.0.1", "--reuseaddr"],
            ):
                process = subprocess.Popen([*enter, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                stack.callback(process.wait)
                stack.callback(process.terminate)
            for port in (8000, 9418):
                check = f"import socket; socket.create_connection(('127.0.0.1', {port})).close()"
                eventually(
                    lambda: run(*engine.engine.netns.enter, sys.executable, "-c", check, check=False).returncode == 0,  # noqa: B023
                    10,
                    "the servers",
                )
        yield


def remote_build(engine: BuildEngine, url: str, dockerfile: str | None = None) -> Outcome:
    """A build whose context the engine fetches itself, as SDKs ask for it."""
    client = docker.DockerClient(base_url=engine.engine.url)
    try:
        client.images.build(path=url, tag="conformance:case", dockerfile=dockerfile, rm=True, forcerm=True)
    except docker.errors.BuildError as error:
        return Outcome({}, {}, str(error.msg))
    except docker.errors.APIError as error:
        return Outcome({}, {}, " ".join(error.explanation.split()))
    finally:
        client.close()
    return engine.outcome("conformance:case")


@pytest.mark.parametrize(
    "url",
    [
        f"{GIT}/repo.git",
        f"{GIT}/repo.git#v1",
        f"{GIT}/repo.git#other",
        f"{GIT}/repo.git#master:sub",
        f"{GIT}/repo.git#:sub",
        f"{GIT}/repo.git#COMMIT",
        f"{HTTP}/repo.git#v1:sub",
        f"{HTTP}/context.tar",
        f"{HTTP}/context.tgz",
        f"{HTTP}/Dockerfile",
    ],
)
def test_remote_context(davit: BuildEngine, reference: BuildEngine, place: Path, url: str) -> None:
    url = url.replace("COMMIT", (place / "v1").read_text())
    ours, theirs = remote_build(davit, url), remote_build(reference, url)
    assert not theirs.error
    assert not ours.error
    # The reference's builder leaves the repository's own directory in; BuildKit, and this engine, only when asked.
    kept = {path: what for path, what in theirs.files.items() if not path.startswith("ctx/.git")}
    assert ours.files == kept
    assert ours.config == theirs.config


@pytest.mark.parametrize(
    ("url", "dockerfile"),
    [
        (f"{HTTP}/absent.tar", None),
        (f"{HTTP}/page.html", None),
        ("http://127.0.0.1:1/context.tar", None),
        (f"{GIT}/absent.git", None),
        (f"{GIT}/repo.git#absent", None),
        (f"{HTTP}/context.tar", "absent"),
        (f"{HTTP}/file.txt", None),
    ],
)
def test_remote_errors(davit: BuildEngine, reference: BuildEngine, url: str, dockerfile: str | None) -> None:
    ours, theirs = remote_build(davit, url, dockerfile), remote_build(reference, url, dockerfile)
    assert theirs.error
    assert ours.error == theirs.error.replace(" : exit", ": exit")


def test_directory_that_a_repository_lacks(davit: BuildEngine) -> None:
    # The reference names a temporary directory of its own.
    error = remote_build(davit, f"{GIT}/repo.git#master:absent").error
    assert error == "error setting git dir: absent is no directory of it"


@pytest.mark.parametrize(
    "lines",
    [
        f"ADD {HTTP}/file.txt /there",
        f"ADD {HTTP}/file.txt {HTTP}/page.html /there/",
        f"ADD --chown=7:8 {HTTP}/file.txt /",
        f"ADD {HTTP}/context.tgz /",
        f"ADD {HTTP}/absent /",
        f"ADD {HTTP}/ /there/",
        "ADD http://127.0.0.1:1/file /",
    ],
)
def test_add_of_urls(davit: BuildEngine, reference: BuildEngine, lines: str) -> None:
    context = tar({"Dockerfile": File(f"FROM busybox\n{lines}\n".encode())})
    ours, theirs = davit.build(context), reference.build(context)
    assert ours.error == theirs.error
    assert ours.files == theirs.files
