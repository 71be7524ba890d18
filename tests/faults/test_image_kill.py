"""kill -9 of the image service in the middle of pulls, loads and imports: nothing is half there afterwards."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.layers.store import OWNER
from tests.conftest import missing
from tests.lab.engine import Engine, eventually
from tests.lab.registry import BINARY, DockerRegistry

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]
ROUNDS = 9
FILES = 400
FILE_BYTES = 60_000


@pytest.fixture
def engine() -> Iterator[Engine]:
    if os.geteuid() != 0 or BINARY is None:
        missing("root or docker-registry")
    with Engine() as running:
        yield running


def make_tree(path: Path) -> dict[str, str]:
    """A root file system that takes a moment to unpack; digests by name."""
    digests = {}
    for number in range(FILES):
        name = f"d{number % 7}/f{number}"
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        data = random.Random(number).randbytes(FILE_BYTES)
        (path / name).write_bytes(data)
        digests[name] = hashlib.sha256(data).hexdigest()
    return digests


def check_store(engine: Engine, digests: dict[str, str]) -> None:
    """Every blob has its digest, every layer has its files, and nothing unfinished lies about."""
    blobs = engine.data / "images/blobs/sha256"
    for blob in blobs.iterdir():
        assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name
    layers = [path for path in (engine.data / "layers").iterdir() if not path.name.startswith(".")]
    for layer in layers:
        for name, digest in digests.items():
            assert hashlib.sha256((layer / "fs" / name).read_bytes()).hexdigest() == digest, f"{layer.name}: {name}"


def unfinished(engine: Engine) -> list[str]:
    staged = [name for name in os.listdir(engine.data / "layers") if name.startswith((".staged-", ".removed-"))]
    return staged + [name for name in os.listdir(engine.data / "images/ingest") if not name.endswith(".part")]


def kill_image_service(engine: Engine) -> None:
    pid = engine.kill("image")
    eventually(lambda: engine.pids().get("image") not in (None, pid), 20, "a new image service")


def answers(engine: Engine) -> bool:
    return engine.docker("images", check=False).returncode == 0


def test_work_that_is_killed_leaves_nothing_half_there(engine: Engine, tmp_path: Path) -> None:
    digests = make_tree(tmp_path / "tree")
    tar, saved = tmp_path / "tree.tar", tmp_path / "saved.tar"
    with tarfile.open(tar, "w") as archive:
        archive.add(tmp_path / "tree", ".")
    with DockerRegistry(tmp_path / "registry", inside=engine.netns.enter) as registry:
        name = f"{registry.domain}/app:1"
        engine.docker("import", str(tar), name)
        engine.docker("push", name)
        engine.docker("save", "-o", str(saved), name)
        image_id = engine.docker("image", "inspect", "-f", "{{.Id}}", name).stdout.strip()
        engine.docker("rmi", "-f", image_id)
        works = (("pull", name), ("load", "-i", str(saved)), ("import", str(tar), "imported:1"))
        for number in range(ROUNDS):
            work = works[number % len(works)]
            client = engine.docker_popen(*work, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(0.05 + 0.06 * number)
            kill_image_service(engine)
            client.wait(60)
            eventually(lambda: answers(engine), 20, "an answer")
            eventually(lambda: not unfinished(engine), 20, "an end of what was unfinished")
            check_store(engine, digests)
        engine.docker("pull", name)
        assert engine.docker("image", "inspect", "-f", "{{.Id}}", name).stdout.strip() == image_id
        engine.docker("load", "-i", str(saved))
        check_store(engine, digests)
        for image in engine.docker("images", "-q", "--no-trunc").stdout.split():
            engine.docker("rmi", "-f", image, check=False)
        assert engine.docker("images", "-aq").stdout == ""
        assert [path for path in (engine.data / "layers").iterdir() if not path.name.startswith(".")] == []


def test_removals_and_commits_that_are_killed_are_done_or_not(engine: Engine, tmp_path: Path) -> None:
    digests = make_tree(tmp_path / "tree")
    tar, saved = tmp_path / "tree.tar", tmp_path / "saved.tar"
    with tarfile.open(tar, "w") as archive:
        archive.add(tmp_path / "tree", ".")
    engine.docker("import", str(tar), "app:1")
    engine.docker("save", "-o", str(saved), "app:1")
    engine.import_busybox()
    engine.docker("run", "--name", "maker", "busybox", "sh", "-c", "head -c 20000000 /dev/urandom > /blob")
    works = (("rmi", "app:1"), ("commit", "maker", "made:1"), ("image", "prune", "-af"))
    for number in range(ROUNDS):
        engine.docker("load", "-i", str(saved))
        client = engine.docker_popen(*works[number % 3], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(0.03 + 0.02 * number)
        kill_image_service(engine)
        client.wait(60)
        eventually(lambda: answers(engine), 20, "an answer")
        assert not [name for name in unfinished(engine) if not name.startswith(".removed-")]
        for image in engine.docker("images", "-q", "--no-trunc").stdout.split():
            layers = engine.docker("image", "inspect", "-f", '{{join .RootFS.Layers " "}}', image).stdout.split()
            assert (engine.data / "layers" / layers[0].removeprefix("sha256:") / "fs").is_dir()
        engine.docker("load", "-i", str(saved))
        check_tree(engine, "app:1", digests)
    assert engine.docker("start", "-a", "maker").returncode == 0, "an image in use is never removed"
    engine.docker("rm", "maker")
    engine.docker("image", "prune", "-af")
    assert engine.docker("images", "-aq").stdout == ""
    # What a kill left hidden is deleted half a minute after the service's start.
    eventually(lambda: not [name for name in os.listdir(engine.data / "layers") if name != OWNER], 60, "an empty store")
    assert os.listdir(engine.data / "images/blobs/sha256") == []


def check_tree(engine: Engine, image: str, digests: dict[str, str]) -> None:
    [layer] = engine.docker("image", "inspect", "-f", '{{join .RootFS.Layers " "}}', image).stdout.split()
    for name, digest in digests.items():
        path = engine.data / "layers" / layer.removeprefix("sha256:") / "fs" / name
        assert hashlib.sha256(path.read_bytes()).hexdigest() == digest
