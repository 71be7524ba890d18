"""Both builders, fed with the same contexts."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.lab.engine import Engine
from tests.lab.reference import ReferenceEngine

TAG = "conformance:case"
# What an engine puts into a container's root file system by itself.
ENGINE_MADE = frozenset(
    {
        ".dockerenv",
        "dev",
        "dev/console",
        "dev/pts",
        "dev/shm",
        "etc/hostname",
        "etc/hosts",
        "etc/mtab",
        "etc/resolv.conf",
        "proc",
        "sys",
    }
)
_KINDS = {tarfile.REGTYPE: "file", tarfile.DIRTYPE: "dir", tarfile.SYMTYPE: "symlink"}


@dataclass(frozen=True)
class Outcome:
    """What a build led to. files: path -> kind, mode, uid, gid, digest or link target. error: the CLI's last line."""

    files: dict[str, tuple[str, int, int, int, str]]
    config: dict[str, Any]
    error: str = ""


class BuildEngine:
    """An engine that builds contexts."""

    def __init__(self, engine: Engine | ReferenceEngine) -> None:
        self.engine = engine
        self.environment = engine.environment | {"DOCKER_BUILDKIT": "0"}

    def run(self, *arguments: str, data: bytes | None = None, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        result = subprocess.run(
            ["docker", *arguments], env=self.environment, input=data, capture_output=True, timeout=120, check=False
        )
        assert not check or result.returncode == 0, result.stdout + result.stderr
        return result

    def build(self, context: bytes, *arguments: str) -> Outcome:
        result = self.run("build", "-t", TAG, *arguments, "-", data=context, check=False)
        if result.returncode != 0:
            return Outcome({}, {}, result.stderr.decode().strip().splitlines()[-1])
        return self.outcome(TAG)

    def outcome(self, tag: str) -> Outcome:
        """What an image is, which is removed."""
        container = self.run("create", tag, "x").stdout.decode().strip()
        files = listing(self.run("export", container).stdout)
        self.run("rm", "-v", container)
        config = json.loads(self.run("image", "inspect", tag).stdout)[0]["Config"]
        self.run("rmi", "--no-prune", tag)
        return Outcome(files, comparable(config))


def listing(data: bytes) -> dict[str, tuple[str, int, int, int, str]]:
    found: dict[str, tuple[str, int, int, int, str]] = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for item in tar:
            name = item.name.strip("/").removeprefix("./")
            if name in ENGINE_MADE or name in ("", "."):
                continue
            stream = tar.extractfile(item) if item.isreg() or item.islnk() else None
            what = hashlib.sha256(stream.read()).hexdigest() if stream else item.linkname
            kind = "file" if item.islnk() else _KINDS.get(item.type, str(item.type))
            mode = 0 if kind == "symlink" else item.mode & 0o7777
            found[name] = (kind, mode, item.uid, item.gid, what)
    return found


def comparable(config: dict[str, Any]) -> dict[str, Any]:
    """Without what is different by nature (ids) and what only one version's JSON spells out (empty values)."""
    return {key: value for key, value in config.items() if value and key not in ("Image", "Hostname")}


def require_both() -> None:
    there = (os.geteuid() == 0, shutil.which("docker") is not None, ReferenceEngine.available())
    missing = [what for what, found in zip(("root", "docker", "dockerd"), there, strict=True) if not found]
    if missing:
        text = f"conformance tests need {', '.join(missing)}"
        if os.environ.get("CI"):
            pytest.fail(text)
        pytest.skip(text)


@pytest.fixture(scope="session")
def reference() -> Iterator[BuildEngine]:
    require_both()
    with ReferenceEngine() as engine:
        engine.import_busybox()
        yield BuildEngine(engine)


@pytest.fixture(scope="session")
def davit() -> Iterator[BuildEngine]:
    require_both()
    with Engine() as engine:
        engine.import_busybox()
        yield BuildEngine(engine)
