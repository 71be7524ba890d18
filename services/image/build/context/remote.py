"""Files from elsewhere: downloads and repositories, for ADD and for remote contexts.

Source: Dockerfile reference, "ADD", "Adding Git repositories", "ADD --checksum"; docker build, "Git repositories".
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import posixpath
import re
import signal
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from shared.errors import InvalidArgument, Unavailable

if TYPE_CHECKING:
    pass

CONNECT_TIMEOUT_S = 30.0
GIT_TIMEOUT_S = 600.0
MAX_DOWNLOAD_BYTES = 16 << 30
_GIT_SUFFIX = re.compile(r"\.git(?:#.+)?$")
_COMMIT = re.compile(r"^[0-9a-f]{7,64}$")


def is_url(text: str) -> bool:
    return text.startswith(("http://", "https://"))


def is_git(text: str) -> bool:
    """Whether a source names a repository rather than a file."""
    if is_url(text):
        return bool(_GIT_SUFFIX.search(text))
    return text.startswith(("git://", "ssh://", "git@", "github.com/"))


@dataclass(frozen=True, slots=True)
class Download:
    """A file fetched. name: last part of the URL's path, may be empty. mtime_ns: 0 when the server did not say."""

    path: Path
    name: str
    size: int
    mtime_ns: int
    content_type: str


async def download(url: str, target: Path, *, checksum: str = "") -> Download:
    """Fetch a URL to a file.

    Args:
        checksum: ``sha256:<hex>`` that the content must have; empty for none.

    Raises:
        InvalidArgument: The content is not what the checksum says, or the checksum is malformed.
        DavitError: The server does not answer, or not with the file; of the kind that its status means.
    """
    import httpx

    from services.image.registry.errors import connection_failure, source_failure

    expected = _expected_digest(checksum)
    digest = hashlib.sha256()
    size = 0
    try:
        timeout = httpx.Timeout(60.0, connect=CONNECT_TIMEOUT_S)
        async with (
            httpx.AsyncClient(follow_redirects=True, timeout=timeout) as client,
            client.stream("GET", url, headers={"Accept-Encoding": "identity"}) as response,
        ):
            if response.status_code >= 400:
                raise await source_failure(response, url)
            with target.open("wb") as out:
                async for chunk in response.aiter_raw(1 << 20):
                    digest.update(chunk)
                    size += len(chunk)
                    if size > MAX_DOWNLOAD_BYTES:
                        raise InvalidArgument(f"{url} is larger than {MAX_DOWNLOAD_BYTES} bytes")
                    out.write(chunk)
    except httpx.HTTPError as error:
        raise connection_failure(error, url) from error
    except httpx.InvalidURL as error:
        raise InvalidArgument(f'parse "{url}": {error}', field="remote") from error
    if expected and digest.hexdigest() != expected:
        raise InvalidArgument(f"digest mismatch sha256:{digest.hexdigest()}: sha256:{expected}", field="--checksum")
    name = posixpath.basename(urlsplit(url).path)
    modified = _time_ns(response.headers.get("last-modified", ""))
    return Download(target, name, size, modified, response.headers.get("content-type", ""))


def _expected_digest(checksum: str) -> str:
    if not checksum:
        return ""
    algorithm, _, value = checksum.partition(":")
    if algorithm != "sha256" or not re.fullmatch(r"[0-9a-f]{64}", value):
        raise InvalidArgument(f"invalid checksum digest format: {checksum}", field="--checksum")
    return value


def _time_ns(text: str) -> int:
    try:
        return int(parsedate_to_datetime(text).timestamp()) * 1_000_000_000
    except (ValueError, TypeError):
        return 0


@dataclass(frozen=True, slots=True)
class GitSource:
    """``repository[#reference[:directory]]``."""

    repository: str
    reference: str = ""
    directory: str = ""


def parse_git(text: str) -> GitSource:
    """Raises InvalidArgument for a reference that git would take for an option, or a directory outside."""
    repository, _, fragment = text.partition("#")
    reference, _, directory = fragment.partition(":")
    if repository.startswith("github.com/"):
        repository = "https://" + repository
    if reference.startswith("-") or repository.startswith("-"):
        raise InvalidArgument(f"invalid git reference in {text}", field="remote")
    directory = posixpath.normpath("/" + directory).strip("/")
    return GitSource(repository, reference, directory)


async def clone(source: GitSource, target: Path, *, keep_git_dir: bool = False) -> Path:
    """Check a repository out; the directory that was asked for.

    Raises:
        Unavailable: git cannot fetch it.
        InvalidArgument: It has no such directory.
    """
    target.mkdir()
    await _git(target, "init", "--quiet")
    await _git(target, "remote", "add", "origin", source.repository)
    await _fetch(target, source.reference)
    await _git(target, "submodule", "update", "--init", "--recursive", "--quiet")
    if not keep_git_dir:
        await asyncio.to_thread(_remove_git_directories, target)
    chosen = target
    for part in source.directory.split("/") if source.directory else ():
        chosen = chosen / part
        if chosen.is_symlink():
            raise InvalidArgument(f"{source.directory} leads through a symbolic link", field="remote")
    if not chosen.is_dir():
        raise InvalidArgument(f"error setting git dir: {source.directory} is no directory of it", field="remote")
    return chosen


async def _fetch(target: Path, reference: str) -> None:
    """Only what is needed where the server can, everything where it cannot."""
    wanted = reference or "HEAD"
    try:
        await _git(target, "fetch", "--quiet", "--depth", "1", "origin", wanted)
        await _git(target, "checkout", "--quiet", "FETCH_HEAD")
        return
    except Unavailable as error:
        refused = error
        await _git(target, "fetch", "--quiet", "--tags", "origin", "+refs/heads/*:refs/remotes/origin/*")
    candidates = [f"origin/{reference}", reference] if reference else ["origin/HEAD", "origin/main", "origin/master"]
    if _COMMIT.match(reference):
        candidates.reverse()
    for candidate in candidates:
        try:
            await _git(target, "checkout", "--quiet", "--detach", candidate, "--")
        except Unavailable:
            continue
        return
    raise refused


async def _git(directory: Path, *arguments: str) -> None:
    environment = {
        "PATH": os.defpath,
        "HOME": str(directory),
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        # A repository must not be able to run commands here through exotic transports.
        "GIT_ALLOW_PROTOCOL": "http:https:git:ssh",
        "GIT_SSH_COMMAND": "ssh -oBatchMode=yes",  # nobody is there to answer a question
    }
    try:
        process = await asyncio.create_subprocess_exec(
            "git",
            "-C",
            str(directory),
            *arguments,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise Unavailable("git is not installed on this machine, and repositories need it") from error
    try:
        output, _ = await asyncio.wait_for(process.communicate(), GIT_TIMEOUT_S)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        raise
    if process.returncode:
        text = output.decode("utf-8", "replace").strip()
        raise Unavailable(f"error fetching: {text}: exit status {process.returncode}")


def _remove_git_directories(root: Path) -> None:
    import shutil

    for parent, directories, files in os.walk(root):
        if ".git" in directories:
            directories.remove(".git")
            shutil.rmtree(os.path.join(parent, ".git"))
        if ".git" in files:  # a submodule's pointer
            os.unlink(os.path.join(parent, ".git"))
