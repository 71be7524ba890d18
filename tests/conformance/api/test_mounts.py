"""What is mounted, filled, read-only and told: compared."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from .conftest import Asked, Question

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]


def filled(asked: Asked, directory: Path) -> Any:
    """A volume that is a bind of a directory gets the image's data as any other."""
    directory.mkdir()
    options = ("--opt", "type=none", "--opt", "o=bind", "--opt", f"device={directory}")
    asked.engine.docker("volume", "create", *options, "bound")
    asked.engine.docker("run", "--rm", "-v", "bound:/etc", "busybox", "true")
    asked.engine.docker("volume", "rm", "bound")
    return (directory / "passwd").read_text()


def test_a_bound_volume_is_filled(davit: Asked, reference: Asked, tmp_path: Path) -> None:
    assert filled(davit, tmp_path / "ours") == filled(reference, tmp_path / "theirs")


def volumes_of(asked: Asked) -> Any:
    script = "grep -E ' /(data|b|x)' /proc/mounts | cut -d' ' -f2 | sort"
    body = {"Image": "busybox", "Cmd": ["sh", "-c", script], "Volumes": {"data": {}, "/a/../b/": {}}}
    created = asked.ask(Question("POST", "/containers/create?name=relative", json.dumps(body)))
    output = asked.engine.docker("start", "-a", "relative").stdout
    asked.engine.docker("rm", "-v", "relative")
    refused = [
        asked.engine.docker("create", *words, "busybox", check=False).returncode
        for words in (["-v", "nv:rel"], ["--tmpfs", "rel"], ["--mount", "type=volume,dst=rel"])
    ]
    return created.status, output, refused


def test_relative_volumes(davit: Asked, reference: Asked) -> None:
    ours = volumes_of(davit)
    assert ours == volumes_of(reference)
    assert ours[1] == "/b\n/data\n"


def written(asked: Asked, *options: str) -> str:
    script = "for f in hosts hostname resolv.conf; do echo '#' 2>/dev/null >> /etc/$f && echo $f; done"
    return asked.engine.docker("run", "--rm", *options, "busybox", "sh", "-c", script, check=False).stdout


def test_generated_files_are_as_the_root_is(davit: Asked, reference: Asked) -> None:
    for options in (("--read-only",), ()):
        assert written(davit, *options) == written(reference, *options)
    assert written(davit, "--read-only") == ""


def told(asked: Asked) -> Any:
    asked.engine.docker("volume", "create", "told")
    since = f"{time.time():.6f}"
    asked.engine.docker("run", "--rm", "-v", "told:/d:ro", "-v", "told:/e", "busybox", "true")
    words = (
        "--since",
        since,
        "--until",
        f"{time.time() + 0.5:.6f}",
        "--filter",
        "type=volume",
        "--filter",
        "event=mount",
    )
    lines = asked.engine.docker("events", *words, "--format", "{{json .Actor.Attributes}}").stdout.splitlines()
    asked.engine.docker("volume", "rm", "told")
    found = [json.loads(line) for line in lines]
    for one in found:
        assert len(one.pop("container")) == 64
    return sorted(found, key=lambda one: str(one["destination"]))


def test_mounts_are_told_with_where_and_how(davit: Asked, reference: Asked) -> None:
    ours = told(davit)
    assert ours == told(reference)
    assert len(ours) == 2


def propagations(asked: Asked) -> Any:
    root = asked.ask(Question("GET", "/info")).json["DockerRootDir"]
    seen: list[Any] = []
    for spec in (f"{root}:/r", "/:/r", f"{root}/volumes:/r:rslave", "/tmp:/r", f"{root}:/r:rprivate", "/:/r:shared"):
        body = json.dumps({"Image": "busybox", "HostConfig": {"Binds": [spec]}})
        created = asked.ask(Question("POST", "/containers/create?name=propagated", body))
        text = ""
        if created.status == 201:
            mounts = asked.ask(Question("GET", "/containers/propagated/json")).json["Mounts"]
            text = mounts[0]["Propagation"]
            asked.engine.docker("rm", "propagated")
        seen.append((spec.replace(root, "ROOT"), created.status, text))
    return seen


def test_binds_of_the_engines_own_directory(davit: Asked, reference: Asked) -> None:
    assert propagations(davit) == propagations(reference)
    root = davit.ask(Question("GET", "/info")).json["DockerRootDir"]
    for source in (root, "/"):
        script = "test -d /r && echo seen"
        assert (
            davit.engine.docker("run", "--rm", "-v", f"{source}:/r", "busybox", "sh", "-c", script).stdout == "seen\n"
        )


def test_a_part_of_a_volume(davit: Asked) -> None:
    """Docker Engine knows it since 26: filled when it is empty, refused at creation when it leads out."""
    davit.engine.docker("run", "--rm", "-v", "parts:/p", "busybox", "mkdir", "-p", "/p/empty", "/p/full/x")
    seen = {}
    for path in ("empty", "full", "full/..", "../x", "/empty"):
        mount = {"Type": "volume", "Source": "parts", "Target": "/etc", "VolumeOptions": {"Subpath": path}}
        body = json.dumps({"Image": "busybox", "Cmd": ["ls", "/etc"], "HostConfig": {"Mounts": [mount]}})
        created = davit.ask(Question("POST", "/containers/create?name=part", body), version="v1.45")
        if created.status != 201:
            seen[path] = created.message.partition(": ")[2]
            continue
        listed = set(davit.engine.docker("start", "-a", "part").stdout.split())
        seen[path] = " ".join(sorted(listed - {"hostname", "hosts", "resolv.conf"}))
        davit.engine.docker("rm", "part")
    davit.engine.docker("volume", "rm", "parts")
    assert seen == {
        "empty": "group passwd",
        "full": "x",
        "full/..": "empty full",
        "../x": "subpath must be a relative path within the volume: ../x",
        "/empty": "subpath must be a relative path within the volume: /empty",
    }


def test_a_tmpfs_volume_is_filled(davit: Asked) -> None:
    davit.engine.docker("volume", "create", "--opt", "type=tmpfs", "--opt", "device=tmpfs", "quick")
    listed = davit.engine.docker("run", "--rm", "-v", "quick:/etc", "busybox", "cat", "/etc/group").stdout
    davit.engine.docker("volume", "rm", "quick")
    assert listed.startswith("root:x:0:\n")
