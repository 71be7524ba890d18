"""Saves a lab to a file, and makes one of it again: all nodes' data at one moment, and what ran on them.

A saved lab is as after a power cut at that moment: the nodes stood still while their data was read. What ran is started
again when the lab is loaded, in the order in which it had been; memory is not saved.

The file is a tar, compressed with zstandard: ``running.json``, ``lab.json``, then ``NODE/data/…``, with sparse files,
owners, links and extended attributes (the whiteouts of overlayfs are among them).

Source: tar(1), GNU format; overlayfs.rst, "whiteouts and opaque directories".
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import zstandard

from lab.lab import Lab
from lab.nodes.kinds import HOST
from lab.places import Places
from lab.record import ON, PAUSED, Record
from shared.errors import Conflict, DavitError, InvalidArgument

_LEVEL = 1  # the disk is the limit, not the size
_THREADS = 2
_AT_ONCE = 16
_EXCLUDED = ("engine.lock", "engine.log*", "engine.json")
_TAR = ("--xattrs", "--xattrs-include=*", "--numeric-owner", "--sparse", "--format=posix")
_RECORD = "lab.json"
_CHUNK = 1 << 20
_RUNNING = "running.json"


def save(lab: Lab, file: Path) -> int:
    """Write the lab; the file's size in bytes. Raises Conflict when a node's data cannot be read.

    Args:
        file: Replaced once it is whole.
    """
    (lab.places.keep / _RUNNING).write_text(json.dumps(_running(lab)))
    part = file.with_name(f".{file.name}.part")
    try:
        with part.open("wb") as output, _standing_still(lab):
            compressor = zstandard.ZstdCompressor(level=_LEVEL, threads=_THREADS)
            with compressor.stream_writer(output, closefd=False) as stream:
                _write(lab, stream)
        part.rename(file)
    finally:
        part.unlink(missing_ok=True)
    return file.stat().st_size


@contextmanager
def _standing_still(lab: Lab) -> Iterator[None]:
    """All nodes are paused meanwhile, those that the user has paused as well as before."""
    going = [name for name in (*lab.machines, HOST) if lab.record.nodes.get(name, ON) == ON and lab.cgroup(name).pids()]
    frozen = []
    try:
        for name in going:
            lab.cgroup(name).freeze(True)
            frozen.append(name)
        yield
    finally:
        for name in frozen:
            lab.cgroup(name).freeze(False)


def _running(lab: Lab) -> list[str]:
    """Ids of the containers that run, those first that started first."""
    managers = [name for name in lab.topology.managers() if lab.record.nodes.get(name, ON) == ON]
    if not managers:
        return []
    client = lab.client(managers[0])
    ids = [entry["Id"] for entry in client.get("/containers/json")]
    started = {one: client.get(f"/containers/{one}/json")["State"]["StartedAt"] for one in ids}
    return sorted(ids, key=lambda one: str(started[one]))


def _write(lab: Lab, stream: IO[bytes]) -> None:
    names = [f"{name}/data" for name in (*lab.machines, HOST) if (lab.places.node(name) / "data").is_dir()]
    excluded = [f"--exclude={pattern}" for pattern in _EXCLUDED]
    first = ["-C", str(lab.places.keep), _RUNNING, "-C", str(lab.places.base), _RECORD]
    command = ["tar", *_TAR, *excluded, "-cf", "-", *first, *names]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        shutil.copyfileobj(process.stdout, stream, _CHUNK)
        said = process.stderr.read().decode(errors="replace").strip()
    if process.returncode:
        raise Conflict(f"the nodes' data cannot be read: {said}")


def name_in(file: Path) -> str:
    """The name that a saved lab had. Raises InvalidArgument when the file is none."""
    try:
        with (
            file.open("rb") as source,
            zstandard.ZstdDecompressor().stream_reader(source) as reader,
            tarfile.open(fileobj=reader, mode="r|") as tar,
        ):
            for entry in tar:
                content = tar.extractfile(entry)
                if entry.name == _RECORD and content is not None:
                    return str(json.load(content)["source"]["name"])
                if entry.name != _RUNNING:
                    break
    except (OSError, zstandard.ZstdError, tarfile.TarError, ValueError, KeyError) as error:
        raise InvalidArgument(f"{file} cannot be read as a saved lab: {error}") from error
    raise InvalidArgument(f"{file} is not a saved lab: it has no record")


def unpack(places: Places, file: Path) -> tuple[Lab, list[str]]:
    """Unpack a saved lab at a place where there is none; the lab, not started, and the containers that ran.

    Raises:
        InvalidArgument: The file is none that `save` wrote.
    """
    command = ["tar", "-C", str(places.base), *_TAR, "-xpf", "-"]
    try:
        with (
            file.open("rb") as source,
            zstandard.ZstdDecompressor().stream_reader(source) as reader,
            subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process,
        ):
            assert process.stdin is not None
            assert process.stderr is not None
            shutil.copyfileobj(reader, process.stdin, _CHUNK)
            process.stdin.close()
            said = process.stderr.read().decode(errors="replace").strip()
    except (OSError, zstandard.ZstdError) as error:
        raise InvalidArgument(f"{file} cannot be read as a saved lab: {error}") from error
    if process.returncode or not places.record.exists():
        raise InvalidArgument(f"{file} is not a saved lab: {said or 'it has no record'}")
    running = json.loads((places.base / _RUNNING).read_text())
    (places.base / _RUNNING).unlink()
    record = Record.read(places)
    record.source["name"] = places.lab
    record.queues, record.single_segments = {}, []
    record.nodes = {name: ON if state == PAUSED else state for name, state in record.nodes.items()}
    record.write(places)
    return Lab(places, record), list(running)


def start_containers(lab: Lab, ids: Iterable[str]) -> list[str]:
    """Start containers again that do not run by themselves; what went wrong, for each that does not."""
    managers = [name for name in lab.topology.managers() if lab.record.nodes.get(name, ON) == ON]
    if not managers:
        return []
    client = lab.client(managers[0])

    def start(one: str) -> str:
        try:
            client.post(f"/containers/{one}/start")
        except DavitError as error:
            return f"{one[:12]}: {error}"
        return ""

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return [problem for problem in pool.map(start, ids) if problem]
