"""`docker build` with the real CLI against a whole engine."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import subprocess
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path

import docker
import pytest

from tests.lab.engine import Engine, eventually

CLASSIC = {"DOCKER_BUILDKIT": "0"}


def context(path: Path, dockerfile: str, files: Mapping[str, str] | None = None) -> Path:
    path.mkdir(exist_ok=True)
    (path / "Dockerfile").write_text(dockerfile)
    for name, text in (files or {}).items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text)
    return path


def build(
    engine: Engine, *arguments: str, check: bool = True, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(
        ["docker", "build", *arguments],
        env=engine.environment | CLASSIC | dict(environment or {}),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if check:
        assert result.returncode == 0, result.stdout + result.stderr
    return result


def test_build_run_and_cache(engine: Engine, tmp_path: Path) -> None:
    where = context(
        tmp_path,
        "FROM busybox AS base\nARG who=me\nENV A=1\nWORKDIR /w\nCOPY a.txt .\nRUN echo $who > made && rm /bin/vi\n"
        'FROM base\nCOPY --from=base /w/made /copy\nCMD ["sh", "-c", "cat /copy a.txt; pwd; ls /bin/vi"]\n',
        {"a.txt": "hello\n"},
    )
    first = build(engine, "-t", "app", "-t", "app:2", "--build-arg", "who=you", "--label", "l=1", str(where))
    assert "Successfully tagged app:latest\nSuccessfully tagged app:2\n" in first.stdout
    run = engine.docker("run", "--rm", "app:2", check=False)
    assert run.stdout == "you\nhello\n/w\n"
    assert "No such file" in run.stderr
    again = build(engine, "-q", "--build-arg", "who=you", "--label", "l=1", str(where))
    inspected = json.loads(engine.docker("image", "inspect", "app").stdout)[0]
    assert again.stdout.strip() == inspected["Id"]
    assert inspected["Config"]["Labels"] == {"l": "1"}
    assert inspected["Config"]["WorkingDir"] == "/w"
    history = engine.docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", "app").stdout
    assert "|1 who=you /bin/sh -c echo $who > made && rm /bin/vi" in history
    (where / "a.txt").write_text("changed\n")
    changed = build(engine, "-t", "app", "--build-arg", "who=you", str(where))
    assert changed.stdout.count("Using cache") == 3
    assert engine.docker("ps", "-aq").stdout == ""


def test_failing_command_and_its_container(engine: Engine, tmp_path: Path) -> None:
    where = context(tmp_path, "FROM busybox\nRUN echo out; echo err >&2; exit 3\n")
    failed = build(engine, str(where), check=False)
    assert failed.returncode == 3
    assert "The command '/bin/sh -c echo out; echo err >&2; exit 3' returned a non-zero code: 3" in failed.stderr
    assert "out\n" in failed.stdout
    assert "err" in failed.stdout
    assert len(engine.docker("ps", "-aq").stdout.split()) == 1
    build(engine, "--force-rm", str(where), check=False)
    assert len(engine.docker("ps", "-aq").stdout.split()) == 1


def test_errors_have_dockers_words(engine: Engine, tmp_path: Path) -> None:
    where = context(tmp_path, "FROM busybox\nBOGUS x\n")
    assert "dockerfile parse error line 2: unknown instruction: BOGUS" in build(engine, str(where), check=False).stderr
    context(tmp_path, "FROM busybox\nCOPY nope /\n")
    assert "COPY failed: file not found in build context" in build(engine, str(where), check=False).stderr
    context(tmp_path, 'FROM busybox\nRUN ["nonexist"]\n')
    assert "executable file not found" in build(engine, str(where), check=False).stderr


def test_mounts_heredocs_and_network(engine: Engine, tmp_path: Path) -> None:
    where = context(
        tmp_path,
        "FROM busybox AS src\nRUN mkdir /data && echo staged > /data/f\nFROM busybox\n"
        "COPY <<EOF /etc/motd\nhi $HOME ${x:-default}\nEOF\n"
        "RUN --mount=type=cache,target=/cache echo x >> /cache/log && wc -l < /cache/log > /lines\n"
        "RUN --mount=type=bind,from=src,source=/data,target=/in cat /in/f > /staged && ! touch /in/x\n"
        "RUN --mount=target=/ctx cat /ctx/file > /fromctx\n"
        "RUN --mount=type=tmpfs,target=/scratch echo y > /scratch/y\n"
        "RUN --network=none ip -o link | wc -l > /links\n"
        "RUN <<EOF\nset -e\necho script > /script\nEOF\n",
        {"file": "context\n"},
    )
    build(engine, "-t", "mounts", str(where))
    out = engine.docker(
        "run", "--rm", "mounts", "sh", "-c",
        "cat /etc/motd /lines /staged /fromctx /links /script; ls -d /cache /in /ctx /scratch 2>/dev/null || true",
    )  # fmt: skip
    assert out.stdout == "hi  default\n1\nstaged\ncontext\n1\nscript\n"
    build(engine, "-t", "mounts", "--no-cache", str(where))
    assert engine.docker("run", "--rm", "mounts", "cat", "/lines").stdout == "2\n"


def test_secrets_come_in_a_header(engine: Engine, tmp_path: Path) -> None:
    where = context(
        tmp_path / "context",
        "FROM busybox\nRUN --mount=type=secret,id=token,required sha256sum < /run/secrets/token > /sum\n"
        "RUN --mount=type=secret,id=token,env=TOKEN printf %s $TOKEN | sha256sum > /sum2\n",
    )
    value = base64.b64encode(b"hunter2").decode()
    header = base64.urlsafe_b64encode(json.dumps({"token": value}).encode()).decode()
    (tmp_path / "config.json").write_text(json.dumps({"HttpHeaders": {"X-Davit-Build-Secrets": header}}))
    with_secret = {"DOCKER_CONFIG": str(tmp_path)}
    first = build(engine, "-t", "secret", str(where), environment=with_secret)
    digest = hashlib.sha256(b"hunter2").hexdigest()
    assert engine.docker("run", "--rm", "secret", "cat", "/sum", "/sum2").stdout.split()[::2] == [digest, digest]
    told = first.stdout + first.stderr + engine.docker("history", "--no-trunc", "secret").stdout
    assert "hunter2" not in told + engine.docker("image", "inspect", "secret").stdout
    missing = build(engine, "--no-cache", str(where), check=False)
    assert "secret token: not found: RUN --mount=type=secret,id=token requires it" in missing.stderr
    assert list((engine.run_dir / "build").iterdir()) == []


def test_volume_user_and_limits(engine: Engine, tmp_path: Path) -> None:
    where = context(
        tmp_path,
        "FROM busybox\nRUN mkdir /v && echo kept > /v/a\nVOLUME /v\nRUN echo lost > /v/b\nUSER nobody\n"
        "RUN id -un > /tmp/user && ulimit -n > /tmp/files && grep NoNewPrivs /proc/self/status > /tmp/privileges\n",
    )
    before = engine.docker("volume", "ls", "-q").stdout
    limits = ("--memory", "64m", "--ulimit", "nofile=100:200", "--security-opt", "no-new-privileges")
    build(engine, "-t", "limits", *limits, str(where))
    out = engine.docker("run", "--rm", "limits", "sh", "-c", "ls /v; cat /tmp/user /tmp/files /tmp/privileges").stdout
    assert out == "a\nnobody\n100\nNoNewPrivs:\t1\n"
    assert engine.docker("volume", "ls", "-q").stdout == before


def test_cancel_leaves_nothing(engine: Engine, tmp_path: Path) -> None:
    where = context(tmp_path, "FROM busybox\nRUN echo started; sleep 1000\n")
    process = subprocess.Popen(
        ["docker", "build", str(where)],
        env=engine.environment | CLASSIC,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout is not None
    while b"started" not in process.stdout.readline():
        assert process.poll() is None
    process.terminate()
    process.communicate(timeout=10)
    eventually(lambda: engine.docker("ps", "-aq").stdout == "", 15, "the build's container to go")
    scratch = engine.data / "build" / "tmp"
    eventually(lambda: list(scratch.iterdir()) == [], 10, "the build's files to go")


def test_sdk_and_quiet(engine: Engine, tmp_path: Path) -> None:
    where = context(tmp_path, "FROM busybox\nARG x\nENV y=$x\n")
    client = docker.DockerClient(base_url=engine.url)
    try:
        image, logs = client.images.build(path=str(where), tag="sdk:1", buildargs={"x": "1"}, rm=True)
        assert "y=1" in image.attrs["Config"]["Env"]
        assert any("Successfully built" in line.get("stream", "") for line in logs)
        with pytest.raises(docker.errors.BuildError, match="non-zero code: 1"):
            client.images.build(fileobj=io.BytesIO(b"FROM busybox\nRUN false\n"), rm=True, forcerm=True)
        with pytest.raises(docker.errors.APIError) as caught:
            client.images.build(fileobj=io.BytesIO(b"FROM busybox\nBOGUS\n"))
        assert caught.value.status_code == 400
    finally:
        client.close()


def test_context_from_standard_input(engine: Engine) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz") as tar:
        for name, text in (
            ("Dockerfile.x", "FROM busybox\nCOPY . /all\n"),
            ("f", "1"),
            (".dockerignore", "Dockerfile.x\n"),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    command = ["docker", "build", "-t", "stdin", "-f", "Dockerfile.x", "-"]
    subprocess.run(
        command, env=engine.environment | CLASSIC, input=buffer.getvalue(), check=True, capture_output=True, timeout=60
    )
    assert engine.docker("run", "--rm", "stdin", "ls", "-A", "/all").stdout == ".dockerignore\nf\n"


def test_stages_run_side_by_side(engine: Engine, tmp_path: Path) -> None:
    where = context(
        tmp_path,
        "FROM busybox AS a\nRUN sleep 2; echo a > /a\nFROM busybox AS b\nRUN sleep 2; echo b > /b\n"
        "FROM busybox AS unused\nRUN sleep 100\nFROM scratch\nCOPY --from=a /a /\nCOPY --from=b /b /\n",
    )
    begin = time.monotonic()
    build(engine, "-t", "two", "--no-cache", str(where))
    assert time.monotonic() - begin < 3.9


def test_prune(engine: Engine, tmp_path: Path) -> None:
    where = context(tmp_path, "FROM busybox\nRUN --mount=type=cache,target=/c echo a > /c/a; echo b > /b\n")
    built = build(engine, "-q", str(where)).stdout.strip()
    client = docker.APIClient(base_url=engine.url)
    try:
        pruned = client._result(client._post(client._url("/build/prune"), params={"all": "1"}), json=True)
    finally:
        client.close()
    assert built in pruned["CachesDeleted"]
    assert pruned["SpaceReclaimed"] > 0
    assert not any((engine.data / "build" / "cache").iterdir())
    assert engine.docker("image", "inspect", "busybox", check=False).returncode == 0


def test_two_builds_at_once(engine: Engine, tmp_path: Path) -> None:
    where = context(tmp_path, "FROM busybox\nARG n\nRUN echo $n > /n\nRUN cat /n\n")
    processes = [
        subprocess.Popen(
            ["docker", "build", "-q", "-t", f"many:{number}", "--build-arg", f"n={number}", str(where)],
            env=engine.environment | CLASSIC,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for number in range(4)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    for number in range(4):
        assert engine.docker("run", "--rm", f"many:{number}", "cat", "/n").stdout == f"{number}\n"
    assert os.listdir(engine.run_dir / "build") == []
