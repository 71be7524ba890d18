"""Images between davit and the reference engine, in both directions and every way there is."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import missing
from tests.lab.engine import Engine, busybox_tar
from tests.lab.images import PASSWORD, USER, ImageLab, image_lab
from tests.lab.reference import ReferenceEngine
from tests.lab.registry import BINARY

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]
AnyEngine = Engine | ReferenceEngine

DOCKERFILE = """\
FROM busybox
RUN mkdir -p /a/b /opaque && echo 1 > /a/b/one && echo 2 > /a/two && echo old > /opaque/old && ln /a/two /a/hard
RUN rm /a/b/one && rm -r /opaque && mkdir /opaque && echo new > /opaque/new && chmod 4711 /a/two
RUN ln -s /a/two /link && mkfifo /pipe && touch -d @1000000000 /dated && chown 12:34 /dated && rm -r /a/b && echo > /a/b
LABEL made=by-reference
CMD ["cat", "/a/two"]
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImageLab]:
    if os.geteuid() != 0 or BINARY is None or not ReferenceEngine.available():
        missing("root, docker-registry or the reference engine")
    directory = tmp_path_factory.mktemp("lab")
    with image_lab(directory / "registry") as found:
        found.reference.import_busybox()
        (directory / "context").mkdir()
        (directory / "context/Dockerfile").write_text(DOCKERFILE)
        env = found.reference.environment | {"DOCKER_BUILDKIT": "0"}
        subprocess.run(
            ["docker", "build", "-q", "-t", "made:1", str(directory / "context")],
            env=env,
            check=True,
            capture_output=True,
        )
        yield found


def inspected(engine: AnyEngine, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(engine.docker("image", "inspect", name).stdout)[0]
    return found


def identity(engine: AnyEngine, name: str) -> tuple[str, list[str], int]:
    image = inspected(engine, name)
    return image["Id"], image["RootFS"]["Layers"], image["Size"]


def content(engine: AnyEngine, name: str, path: Path) -> dict[str, tuple[object, ...]]:
    """Every file of an image: what it is, whose, and what is in it."""
    container = engine.docker("create", name).stdout.strip()
    try:
        engine.docker("export", "-o", str(path), container)
    finally:
        engine.docker("rm", container)
    found: dict[str, tuple[object, ...]] = {}
    made_by_engine = ("dev/", "proc/", "sys/", "etc/hosts", "etc/hostname", "etc/resolv.conf", "etc/mtab", ".dockerenv")
    with tarfile.open(path) as tar:
        for member in tar:
            if (member.name + "/").startswith(made_by_engine) or member.name in made_by_engine or member.name == "etc":
                continue
            data = tar.extractfile(member) if member.isfile() else None
            digest = hashlib.sha256(data.read()).hexdigest() if data else ""
            # Which of two hard links comes first in an archive is open; both have the same content.
            linked = member.islnk()
            kind = tarfile.REGTYPE if linked else member.type
            found[member.name] = (
                kind,
                member.mode & 0o7777,
                member.uid,
                member.gid,
                member.mtime,
                "" if linked else member.linkname,
                "" if linked else digest,
            )
    return found


def test_saved_by_the_reference_loaded_here_and_back(lab: ImageLab, tmp_path: Path) -> None:
    theirs, ours = tmp_path / "theirs.tar", tmp_path / "ours.tar"
    lab.reference.docker("save", "-o", str(theirs), "made:1")
    assert "Loaded image: made:1" in lab.davit.docker("load", "-i", str(theirs)).stdout
    assert identity(lab.davit, "made:1") == identity(lab.reference, "made:1")
    assert content(lab.davit, "made:1", tmp_path / "a.tar") == content(lab.reference, "made:1", tmp_path / "b.tar")
    lab.davit.docker("save", "-o", str(ours), "made:1")
    before = identity(lab.reference, "made:1")
    lab.reference.docker("rmi", "made:1")
    lab.reference.docker("load", "-i", str(ours))
    assert identity(lab.reference, "made:1") == before


def test_history_is_told_alike(lab: ImageLab, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs.tar"
    lab.reference.docker("save", "-o", str(theirs), "made:1")
    lab.davit.docker("load", "-i", str(theirs))
    form = ("history", "--no-trunc", "--format", "{{.CreatedBy}}|{{.Size}}|{{.Comment}}", "made:1")
    assert lab.davit.docker(*form).stdout == lab.reference.docker(*form).stdout


def test_pushed_by_the_reference_pulled_here(lab: ImageLab, tmp_path: Path) -> None:
    name = f"{lab.registry.domain}/made:theirs"
    lab.reference.docker("tag", "made:1", name)
    lab.reference.docker("push", name)
    lab.davit.docker("pull", name)
    assert identity(lab.davit, name) == identity(lab.reference, name)
    assert inspected(lab.davit, name)["RepoDigests"] == inspected(lab.reference, name)["RepoDigests"]
    assert content(lab.davit, name, tmp_path / "a.tar") == content(lab.reference, name, tmp_path / "b.tar")


@pytest.mark.parametrize("where", ["registry", "own_registry"])
def test_pushed_here_pulled_by_the_reference(lab: ImageLab, where: str, tmp_path: Path) -> None:
    domain = lab.registry.domain if where == "registry" else lab.own_registry
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub/file").write_text(f"for {where}")
    packed = tmp_path / "tree.tar"
    subprocess.run(["tar", "-C", str(tree), "-cf", str(packed), "."], check=True)
    name = f"{domain}/ours:{where.replace('_', '-')}"
    lab.davit.docker("import", "-c", "CMD x", str(packed), name)
    lab.davit.docker("push", name)
    lab.reference.docker("pull", name)
    assert identity(lab.reference, name) == identity(lab.davit, name)
    assert inspected(lab.reference, name)["RepoDigests"] == inspected(lab.davit, name)["RepoDigests"]


def test_the_reference_pushes_to_davits_own_registry(lab: ImageLab) -> None:
    name = f"{lab.own_registry}/from/reference:1"
    lab.reference.docker("tag", "made:1", name)
    told = lab.reference.docker("push", name).stdout
    assert "digest: sha256:" in told
    lab.davit.docker("pull", name)
    assert identity(lab.davit, name) == identity(lab.reference, name)
    if shutil.which("skopeo"):
        credentials = f"--creds={USER}:{PASSWORD}"
        lab.davit.inside("skopeo", "inspect", "--tls-verify=false", credentials, f"docker://{name}")


def test_both_are_refused_what_their_user_has_no_right_to(lab: ImageLab) -> None:
    name = f"{lab.own_registry}/elsewhere/made:1"
    tar = busybox_tar(lab.davit.base / "busybox.tar")
    for engine in (lab.davit, lab.reference):
        engine.docker("import", str(tar), name)
        refused = engine.docker("push", name, check=False)
        assert refused.returncode == 1
        assert refused.stderr.strip() == "denied: requested access to the resource is denied"
        engine.docker("rmi", name)


def test_an_index_with_two_platforms(lab: ImageLab) -> None:
    domain, docker = lab.registry.domain, lab.davit.docker
    parts = []
    for architecture in ("amd64", "arm64"):
        parts.append(f"{domain}/part:{architecture}")
        tar = lab.davit.base / "busybox.tar"
        busybox_tar(tar)
        docker("import", "--platform", f"linux/{architecture}", str(tar), parts[-1])
        docker("push", parts[-1])
        docker("rmi", parts[-1])
    name = f"{domain}/both:1"
    for command in (("create", "--insecure", name, *parts), ("push", "--insecure", name)):
        lab.davit.inside("docker", "manifest", *command, env=lab.davit.environment)
    for engine in (lab.davit, lab.reference):
        engine.docker("pull", "--platform", "linux/arm64", name)
        assert inspected(engine, name)["Architecture"] == "arm64"
        engine.docker("pull", name)
        assert inspected(engine, name)["Architecture"] == "amd64"
    ids = [
        docker("image", "inspect", "--platform", f"linux/{one}", "-f", "{{.Id}}", name).stdout
        for one in ("amd64", "arm64")
    ]
    assert ids[0] == docker("image", "inspect", "-f", "{{.Id}}", name).stdout != ids[1]
    created = docker("create", "--pull", "never", "--platform", "linux/arm64", name, "true").stdout.strip()
    assert docker("inspect", "-f", "{{.Image}}", created).stdout == ids[1]
    docker("rm", created)
    assert docker("images", "-q", name).stdout.count("\n") == 1
    archive = lab.davit.base / "arm64.tar"
    docker("save", "--platform", "linux/arm64", "-o", str(archive), name)
    assert f"Deleted: {ids[0]}" in docker("rmi", "--platform", "linux/amd64", name).stdout
    assert inspected(lab.davit, name)["Architecture"] == "arm64"
    docker("rmi", name)
    refused = docker("load", "--platform", "linux/amd64", "-i", str(archive), check=False)
    assert refused.returncode == 1
    docker("load", "--platform", "linux/arm64", "-i", str(archive))
    assert docker("history", "--platform", "linux/arm64", "-q", name).stdout
    docker("push", "--platform", "linux/arm64", name)
    assert docker("push", "--platform", "linux/s390x", name, check=False).returncode == 1


def told_events(engine: AnyEngine, tar: Path, name: str) -> list[tuple[str, str]]:
    """Actions and names of the events of an image's life; ids without their digits."""
    since = time.time()
    archive = tar.with_suffix(".saved")
    for command in (
        ("import", str(tar), "lived:1"), ("tag", "lived:1", name), ("push", name), ("rmi", name), ("pull", name),
        ("save", "-o", str(archive), "lived:1"), ("rmi", name), ("rmi", "lived:1"), ("load", "-i", str(archive)),
        ("rmi", "lived:1"),
    ):  # fmt: skip
        engine.docker(*command)
    window = ("--since", f"{since:.3f}", "--until", f"{time.time() + 0.01:.3f}")
    form = ("--filter", "type=image", "--format", "{{json .}}")
    events = [json.loads(line) for line in engine.docker("events", *window, *form).stdout.splitlines()]
    named = [(event["Action"], event["Actor"]["Attributes"].get("name", "")) for event in events]
    return [(action, re.sub("[0-9a-f]{64}", "ID", text)) for action, text in named]


def test_events_of_an_images_life_are_alike(lab: ImageLab, tmp_path: Path) -> None:
    tar = busybox_tar(tmp_path / "tree.tar")
    ours, theirs = (
        told_events(engine, tar, f"{lab.registry.domain}/lived:{number}")
        for number, engine in ((1, lab.davit), (1, lab.reference))
    )
    assert ours == theirs


# Questions with one answer: exit code and text are the same.
QUESTIONS = (
    ("rmi", "nosuch"),
    ("rmi", "sha256:0000"),
    ("tag", "nosuch", "a:1"),
    ("save", "nosuch", "-o", "/dev/null"),
    ("history", "nosuch"),
    ("pull", "REGISTRY/nosuch:1"),
    ("pull", "REGISTRY/made:nosuch"),
    ("push", "REGISTRY/nosuch:1"),
    ("push", "REGISTRY/nosuch"),
    ("images", "--filter", "nosuch=1"),
    ("images", "--filter", "dangling=perhaps"),
    ("import", "-c", "RUN true", "/dev/null", "x:1"),
    ("import", "-c", "BOGUS x", "/dev/null", "x:1"),
    ("import", "--platform", "bogus/arch", "/dev/null", "x:1"),
    ("save", "made:1", "nosuch", "-o", "/dev/null"),
    ("rmi", "a" * 64),
    ("pull", "127.0.0.1:1/x"),
    ("import", "http://127.0.0.1:1/x.tar"),
    ("login", "-u", "a", "-p", "b", "127.0.0.1:1"),
)


@pytest.mark.parametrize("question", QUESTIONS, ids=" ".join)
def test_refusals_are_worded_alike(lab: ImageLab, question: tuple[str, ...]) -> None:
    words = [word.replace("REGISTRY", lab.registry.domain) for word in question]
    theirs, ours = (engine.docker(*words, check=False) for engine in (lab.reference, lab.davit))
    assert (ours.returncode, comparable(ours.stderr)) == (theirs.returncode, comparable(theirs.stderr))


def comparable(text: str) -> str:
    """Without what belongs to the version of the reference engine."""
    lines = [line for line in text.splitlines() if not line.startswith("WARNING")]
    return "\n".join(lines).replace("Invalid filter", "invalid filter")
