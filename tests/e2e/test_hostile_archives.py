"""Archives that would write outside: nothing outside the container or image changes, whatever they hold."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from docker.errors import APIError

from tests.lab.engine import Engine

pytestmark = pytest.mark.root

EVIL = b"written by an archive\n"


@pytest.fixture
def sdk(engine: Engine) -> Iterator[docker.DockerClient]:
    client = docker.DockerClient(base_url=engine.url, version="auto", timeout=30)
    yield client
    client.close()


@pytest.fixture
def outside() -> Iterator[Path]:
    """A file of the host that every hostile archive here aims at."""
    path = Path("/var/tmp/aimed-at-by-archives")
    path.write_text("untouched\n")
    yield path
    assert path.read_text() == "untouched\n"
    path.unlink()


def member(tar: tarfile.TarFile, name: str, *, kind: bytes = tarfile.REGTYPE, link: str = "") -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, link
    data = EVIL if kind == tarfile.REGTYPE else b""
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))


def hostile(outside: Path, how: str) -> bytes:
    target = str(outside)
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        match how:
            case "dots":
                member(tar, "../" * 20 + target.lstrip("/"))
            case "absolute":
                member(tar, target)
            case "symlink":
                member(tar, "way", kind=tarfile.SYMTYPE, link=str(outside.parent))
                member(tar, f"way/{outside.name}")
            case "symlink up":
                member(tar, "way", kind=tarfile.SYMTYPE, link="../" * 20 + str(outside.parent).lstrip("/"))
                member(tar, f"way/{outside.name}")
            case "hard link":
                member(tar, "same", kind=tarfile.LNKTYPE, link=target)
                member(tar, "same")
            case "hard link up":
                member(tar, "same", kind=tarfile.LNKTYPE, link="../" * 20 + target.lstrip("/"))
                member(tar, "same")
    return data.getvalue()


WAYS = ["dots", "absolute", "symlink", "symlink up", "hard link", "hard link up"]


@pytest.mark.parametrize("how", WAYS)
def test_copied_into_a_container(sdk: docker.DockerClient, outside: Path, how: str) -> None:
    running = sdk.containers.run("busybox", ["sleep", "1000"], detach=True)
    for container in (running, sdk.containers.create("busybox", volumes=["/vol"])):
        for directory in ("/", "/tmp") if container is running else ("/tmp", "/vol"):
            try:
                container.put_archive(directory, hostile(outside, how))
            except APIError as error:
                assert error.status_code in (400, 403, 404, 500)  # noqa: PT017
    assert outside.read_text() == "untouched\n"


@pytest.mark.parametrize("how", WAYS)
def test_imported(sdk: docker.DockerClient, outside: Path, how: str) -> None:
    try:
        sdk.api.import_image_from_data(hostile(outside, how), repository="hostile")
    except APIError as error:
        assert error.status_code in (400, 500)  # noqa: PT017
    assert outside.read_text() == "untouched\n"
    for image in sdk.images.list(name="hostile"):
        sdk.images.remove(image.id, force=True)


def test_a_link_in_the_container_does_not_lead_a_copy_out(
    engine: Engine, sdk: docker.DockerClient, outside: Path
) -> None:
    """Neither the container's own links nor a directory that it swaps for one take a copy to the host."""
    container = sdk.containers.run(
        "busybox", ["sh", "-c", f"ln -s {outside.parent} /way; ln -s {outside} /file; sleep 1000"], detach=True
    )
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        member(tar, outside.name)
    with pytest.raises(APIError):
        container.put_archive("/way", data.getvalue())  # a link to a directory that the container does not have
    container.exec_run(["mkdir", "-p", str(outside.parent)])
    assert container.put_archive("/way", data.getvalue())
    assert container.exec_run(["cat", str(outside)]).output == EVIL
    stream, status = container.get_archive("/file")
    assert status["linkTarget"] == str(outside)
    assert b"untouched" not in b"".join(stream)
