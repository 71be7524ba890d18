"""`docker build` as people run it: the real CLI with the real buildx, through BuildKit's protocol."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from tests.e2e.test_build import context
from tests.lab.buildx import install_plugin
from tests.lab.engine import Engine, eventually

pytestmark = pytest.mark.root


@pytest.fixture(scope="module", autouse=True)
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration directory of the CLI's with buildx in it."""
    directory: Path = tmp_path_factory.mktemp("docker")
    if not install_plugin(directory):
        if os.environ.get("CI"):
            pytest.fail("buildx cannot be had from Debian's packages")
        pytest.skip("buildx cannot be had from Debian's packages")
    return directory


@pytest.fixture
def client(engine: Engine, config: Path) -> Client:
    return Client(engine, config)


class Client:
    """The CLI with buildx; progress and errors are both in `stderr`."""

    def __init__(self, engine: Engine, config: Path) -> None:
        self.engine = engine
        self.environment = engine.environment | {"DOCKER_CONFIG": str(config)}

    def run(self, *arguments: str, check: bool = True, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        result = subprocess.run(
            ["docker", *arguments],
            env=self.environment, cwd=cwd, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        if check:
            assert result.returncode == 0, result.stdout + result.stderr
        return result

    def build(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run("build", "--progress", "plain", *arguments, check=check)


def transferred(progress: str) -> int:
    """Bytes of the build context that were sent."""
    match = re.search(
        r"transferring context: ([\d.]+)(k?B|MB) (?:[\d.]+s )?done\n#\d+ DONE(?!.*transferring)", progress, re.S
    )
    assert match, progress
    return int(float(match[1]) * {"B": 1, "kB": 1e3, "MB": 1e6}[match[2]])


USUAL = """\
# syntax=docker/dockerfile:1
FROM busybox AS base
ARG WHO=nobody
ENV PLACE=/srv
WORKDIR $PLACE
RUN echo "hello $WHO" > greeting

FROM base
COPY --chmod=600 a.txt sub/ ./
RUN --mount=type=secret,id=token,env=TOKEN test ${#TOKEN} = 6 && wc -c < /run/secrets/token > size
COPY --from=base /srv/greeting /copied
COPY <<EOF /doc
$PLACE
EOF
USER 1000
CMD ["sh", "-c", "cat /copied /doc; ls -ln /srv"]
"""


def test_a_usual_build_through_the_door(client: Client, tmp_path: Path) -> None:
    before = set(client.engine.docker("images", "-aq", "--no-trunc").stdout.split())
    where = context(tmp_path / "c", USUAL, {"a.txt": "a", "sub/b.txt": "b", "left.md": "x", ".dockerignore": "*.md\n"})
    secret = tmp_path / "token"
    secret.write_text("s3cret")
    iidfile, metadata = tmp_path / "iid", tmp_path / "metadata"
    arguments = ("-t", "usual", "-t", "usual:2", "--build-arg", "WHO=you", "--secret", f"id=token,src={secret}")
    files = ("--iidfile", str(iidfile), "--metadata-file", str(metadata), "--label", "made=here")
    told = client.build(*arguments, *files, str(where)).stderr
    for line in (
        "[internal] load build definition from Dockerfile",
        "[internal] load .dockerignore",
        "[internal] load build context",
        "[base 1/3] FROM docker.io/library/busybox:latest",
        '[base 3/3] RUN echo "hello you" > greeting',
        "[stage-1 1/4] COPY --chmod=600 a.txt sub/ ./",
        "naming to docker.io/library/usual:2",
    ):
        assert line in told, told
    out = client.engine.docker("run", "--rm", "usual:2").stdout
    assert out.startswith("hello you\n/srv\n")
    assert re.search(r"-rw------- +1 0 +0 +1 .* a\.txt", out), out
    assert "b.txt" in out
    assert "left.md" not in out

    image = json.loads(client.engine.docker("image", "inspect", "usual").stdout)[0]
    assert iidfile.read_text() == image["Id"]
    assert json.loads(metadata.read_text())["containerimage.config.digest"] == image["Id"]
    assert image["Config"]["Labels"] == {"made": "here"}
    assert image["Parent"] == ""
    history = client.engine.docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", "usual").stdout
    assert history.splitlines()[0] == 'CMD ["sh" "-c" "cat /copied /doc; ls -ln /srv"]'
    assert "COPY --chmod=600 a.txt sub/ ./ # buildkit" in history
    assert "s3cret" not in history

    again = client.build(*arguments, *files, str(where)).stderr
    assert again.count("CACHED") == 6, again
    assert iidfile.read_text() == image["Id"]
    # Steps are cache, and no images to anybody.
    assert set(client.engine.docker("images", "-aq", "--no-trunc").stdout.split()) - before == {image["Id"]}


def test_only_changes_are_sent(client: Client, tmp_path: Path) -> None:
    where = context(tmp_path / "c", "FROM scratch\nCOPY . /\n", {f"d/{number}": "x" * 5000 for number in range(40)})
    assert transferred(client.build("-t", "ctx", str(where)).stderr) > 200_000
    assert transferred(client.build("-t", "ctx", str(where)).stderr) < 10_000
    (where / "d/7").write_text("changed")
    (where / "d/8").unlink()
    (where / "link").symlink_to("d/7")
    assert transferred(client.build("-t", "ctx", str(where)).stderr) < 10_000
    listed = subprocess.run(
        ["sh", "-c", "docker save ctx | tar -xO --wildcards '*layer.tar' 'blobs/sha256/*' 2>/dev/null | strings -n 3"],
        env=client.environment, capture_output=True, text=True, check=False,
    ).stdout  # fmt: skip
    assert "d/7" in listed
    assert "d/8" not in listed
    assert "changed" in listed


def test_an_error_shows_its_lines(client: Client, tmp_path: Path) -> None:
    where = context(tmp_path / "c", "FROM busybox\nRUN echo before && \\\n    exit 7\nRUN true\n")
    failed = client.build(str(where), check=False)
    assert failed.returncode == 1
    assert 'process "/bin/sh -c echo before &&     exit 7" did not complete successfully: exit code: 7' in failed.stderr
    assert "   2 | >>> RUN echo before && \\\n   3 | >>>     exit 7\n" in failed.stderr
    where = context(tmp_path / "c", "FROM busybox\nCOPY missing /\n")
    assert '"/missing": not found' in client.build(str(where), check=False).stderr
    where = context(tmp_path / "c", "FROM busybox\nRUNN x\n")
    failed = client.build(str(where), check=False)
    assert "dockerfile parse error on line 2: unknown instruction: RUNN" in failed.stderr
    assert "   2 | >>> RUNN x" in failed.stderr
    where = context(tmp_path / "c", "# syntax=example.com/my/frontend\nFROM busybox\n")
    assert "docker buildx create --driver docker-container" in client.build(str(where), check=False).stderr
    assert client.engine.docker("ps", "-aq").stdout == ""


def test_an_interrupted_build_leaves_nothing(client: Client, tmp_path: Path) -> None:
    where = context(tmp_path / "c", "FROM busybox\nRUN echo started && sleep 100\n")
    process = subprocess.Popen(
        ["docker", "build", "--progress", "plain", str(where)],
        env=client.environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if re.search(r"#\d+ [\d.]+ started", line):
            break
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode != 0
    eventually(lambda: client.engine.docker("ps", "-aq").stdout == "", 10, "the build's container is gone")
    assert time.monotonic() - began < 5
    eventually(lambda: not list((client.engine.data / "build/tmp").iterdir()), 5, "the build's directory is gone")


def test_named_contexts(client: Client, tmp_path: Path) -> None:
    where = context(
        tmp_path / "c", "FROM base\nCOPY --from=more x /x\nCOPY --from=busybox /bin/busybox /bb\nCMD cat /x /etc/from\n"
    )
    (tmp_path / "more").mkdir()
    (tmp_path / "more/x").write_text("from a directory\n")
    client.build("-t", "their-base", str(context(tmp_path / "b", "FROM busybox\nRUN echo an image > /etc/from\n")))
    contexts = ("base=docker-image://their-base", f"more={tmp_path / 'more'}")
    flags = [word for text in contexts for word in ("--build-context", text)]
    client.build("-t", "named", *flags, str(where))
    assert client.engine.docker("run", "--rm", "named").stdout == "from a directory\nan image\n"


BAKE = """
target "base" { dockerfile-inline = "FROM busybox\\nRUN echo linked > /linked" }
target "app" {
  dockerfile-inline = "FROM base\\nCMD cat /linked"
  contexts = { base = "target:base" }
  tags = ["baked"]
}
"""


def test_bake_with_targets_that_build_on_each_other(client: Client, tmp_path: Path) -> None:
    (tmp_path / "docker-bake.hcl").write_text(BAKE)
    client.run("buildx", "bake", "--progress", "plain", "app", cwd=tmp_path)
    assert client.engine.docker("run", "--rm", "baked").stdout == "linked\n"


def test_a_context_from_standard_input(client: Client, tmp_path: Path) -> None:
    where = context(tmp_path / "c", "FROM busybox\nCOPY f /f\nCMD cat /f\n", {"f": "piped\n"})
    script = f"tar -C {where} -c . | docker build -t piped -"
    subprocess.run(["sh", "-c", script], env=client.environment, check=True, capture_output=True, timeout=60)
    assert client.engine.docker("run", "--rm", "piped").stdout == "piped\n"


def test_outputs(client: Client, tmp_path: Path) -> None:
    where = context(tmp_path / "c", "FROM scratch\nCOPY --chown=7:8 --chmod=640 f d/\nCOPY f g\n", {"f": "content"})
    out = tmp_path / "out"
    names = [f"type=local,dest={out}", f"type=tar,dest={tmp_path}/o.tar", f"type=docker,dest={tmp_path}/d.tar"]
    client.build(*[word for name in names for word in ("-o", name)], "-t", "sent", str(where))
    assert (out / "d/f").read_text() == (out / "g").read_text() == "content"
    assert (out / "d/f").stat().st_mode & 0o777 == 0o640
    with tarfile.open(tmp_path / "o.tar") as tar:
        member = tar.getmember("d/f")
        assert (member.uid, member.gid, member.mode, member.size) == (7, 8, 0o640, 7)
    assert client.engine.docker("images", "-q", "sent").stdout == ""
    assert "sent:latest" in client.run("load", "-i", str(tmp_path / "d.tar")).stdout
    annotated = f"type=oci,dest={tmp_path}/oci.tar"
    client.build("-o", annotated, "--annotation", "key=value", str(where))
    with tarfile.open(tmp_path / "oci.tar") as tar:
        index = json.load(tar.extractfile("index.json"))  # type: ignore[arg-type]
        digest = index["manifests"][0]["digest"].removeprefix("sha256:")
        manifest = json.load(tar.extractfile(f"blobs/sha256/{digest}"))  # type: ignore[arg-type]
    assert manifest["annotations"] == {"key": "value"}
    refused = client.build("-o", "type=image,name=x,compression=zstd", str(where), check=False)
    assert "the attribute compression of the exporter" in refused.stderr
    for flag in ("--sbom=true", "--provenance=mode=max"):
        assert "attestations are not supported" in client.build(flag, str(where), check=False).stderr
    refused = client.build("--cache-to", "type=registry,ref=r.example/x", str(where), check=False)
    assert "cache-to type=registry is not supported" in refused.stderr


def test_several_platforms_at_once(client: Client, tmp_path: Path) -> None:
    where = context(
        tmp_path / "c", "FROM scratch\nARG TARGETARCH\nLABEL arch=$TARGETARCH\nCOPY f /$TARGETARCH\n", {"f": "x"}
    )
    told = client.build("--platform", "linux/amd64,linux/arm64", "-t", "many", str(where)).stderr
    assert "[linux/arm64 1/1] COPY f /arm64" in told
    for arch in ("amd64", "arm64"):
        shown = client.run(
            "image", "inspect", "--platform", f"linux/{arch}", "--format", "{{.Config.Labels.arch}}", "many"
        )
        assert shown.stdout.strip() == arch


def test_an_image_that_holds_its_cache(client: Client, tmp_path: Path) -> None:
    docker = client.engine.docker
    where = context(tmp_path / "c", "FROM busybox\nRUN date > /when\nCOPY f /f\n", {"f": "x"})
    client.build("--cache-to", "type=inline", "-t", "cached", str(where))
    made = docker("run", "--rm", "cached", "cat", "/when").stdout
    docker("save", "-o", str(tmp_path / "cached.tar"), "cached")
    docker("rmi", "cached")
    client.run("buildx", "prune", "-af")
    docker("load", "-i", str(tmp_path / "cached.tar"))
    told = client.build("--cache-from", "cached", "-t", "again", str(where)).stderr
    assert told.count("CACHED") == 2, told
    assert docker("run", "--rm", "again", "cat", "/when").stdout == made
    (where / "f").write_text("y")  # the history says the same of both
    told = client.build("--cache-from", "cached", "-t", "again", str(where)).stderr
    assert told.count("CACHED") == 1, told
    assert docker("run", "--rm", "again", "cat", "/f").stdout == "y"
    told = client.build("--no-cache-filter", "other", "-t", "again", str(where)).stderr
    assert told.count("CACHED") == 2
    assert "CACHED" not in client.build("--no-cache", "-t", "again", str(where)).stderr


def test_what_builds_keep(client: Client, tmp_path: Path) -> None:
    where = context(tmp_path / "c", "FROM busybox\nRUN echo kept > /kept\nCOPY f /\n", {"f": "x" * 5000})
    client.build(str(where))
    client.build(str(context(tmp_path / "bad", "FROM busybox\nRUN exit 3\n")), check=False)
    listed = client.run("buildx", "history", "ls", "--format", "{{.Name}} {{.Status}}").stdout.splitlines()
    assert listed[:2] == ["bad Error", "c Completed"]
    assert "RUN exit 3" in client.run("buildx", "history", "logs").stderr
    usage = client.run("buildx", "du", "--verbose").stdout
    assert "source.local" in usage
    assert "regular" in usage
    client.run("buildx", "prune", "-f", "--filter", "type=source.local")
    assert "source.local" not in client.run("buildx", "du", "--verbose").stdout
    client.run("buildx", "prune", "-af")
    assert "Total:\t\t0B" in client.run("buildx", "du").stdout
    assert not list((client.engine.data / "build/contexts").glob("*/*"))
    client.run("buildx", "history", "rm", "--all")
    assert client.run("buildx", "history", "ls", "--format", "{{.Name}}").stdout == ""


def test_privileges_need_the_clients_word(client: Client, tmp_path: Path) -> None:
    where = context(
        tmp_path / "c", "FROM busybox\nRUN --security=insecure mkdir /m && mount -t tmpfs none /m && touch /made\n"
    )
    assert "security.insecure is not allowed" in client.build(str(where), check=False).stderr
    client.build("--allow", "security.insecure", "-t", "able", str(where))
    assert client.engine.docker("run", "--rm", "able", "ls", "/made").stdout == "/made\n"


ASKED = """\
# base is where it starts
FROM busybox AS base
# WHO is greeted
ARG WHO=you
FROM base
WORKDIR rel
RUN --mount=type=secret,id=token,required=true --mount=type=ssh true
"""


def test_questions_about_a_dockerfile(client: Client, tmp_path: Path) -> None:
    where = str(context(tmp_path / "c", ASKED))
    outline = client.run("build", "--call", "outline", where).stdout
    assert re.search(r"WHO +you +is greeted", outline)
    assert re.search(r"token +true", outline)
    targets = client.run("build", "--call", "targets", where).stdout
    assert re.search(r"base +is where it starts", targets)
    checked = client.run("build", "--check", where, check=False)
    assert checked.returncode == 1
    assert "WARNING: WorkdirRelativePath" in checked.stdout
    assert "   6 | >>> WORKDIR rel" in checked.stdout
    context(tmp_path / "c", "# check=skip=WorkdirRelativePath\n" + ASKED)
    assert "Check complete, no warnings found" in client.run("build", "--check", where).stdout
    context(tmp_path / "c", "# check=error=true\n" + ASKED)
    failed = client.build(where, check=False)
    assert "lint violation found for rules: WorkdirRelativePath" in failed.stderr


def test_an_agent_in_a_step(client: Client, tmp_path: Path) -> None:
    agent = socket.socket(socket.AF_UNIX)
    agent.bind(str(tmp_path / "agent"))
    agent.listen()
    try:
        shown = "RUN --mount=type=ssh test -S $SSH_AUTH_SOCK && echo $SSH_AUTH_SOCK\n"
        where = context(tmp_path / "c", f"FROM busybox\n{shown}RUN test -z $SSH_AUTH_SOCK\n")
        told = client.build("--ssh", f"default={tmp_path / 'agent'}", str(where)).stderr
        assert "/run/buildkit/ssh_agent" in told
    finally:
        agent.close()
    required = context(tmp_path / "r", "FROM busybox\nRUN --mount=type=ssh,required true\n")
    assert "unset ssh forward key default" in client.build(str(required), check=False).stderr


COMPOSE = """
services:
  web:
    build:
      context: .
      secrets: [s]
      dockerfile_inline: |
        FROM busybox
        COPY f /f
        RUN --mount=type=secret,id=s test -s /run/secrets/s
        CMD cat /f
    image: composed
secrets: {s: {file: ./secret}}
"""


def test_compose_builds_with_bake(client: Client, tmp_path: Path) -> None:
    (tmp_path / "compose.yaml").write_text(COMPOSE)
    (tmp_path / "f").write_text("by compose\n")
    (tmp_path / "secret").write_text("x")
    compose = str(Path(sys.executable).with_name("docker-compose"))
    plugins = Path(client.environment["DOCKER_CONFIG"]) / "cli-plugins"
    if not (plugins / "docker-compose").exists():
        (plugins / "docker-compose").symlink_to(compose)
    told = client.run("compose", "up", "--build", "--no-log-prefix", cwd=tmp_path)
    assert "by compose" in told.stdout
    assert "CACHED" not in told.stderr
    assert "load build definition" in told.stdout + told.stderr
    client.run("compose", "down", "--rmi", "all", cwd=tmp_path)


def test_a_step_that_several_builds_want_is_done_once(client: Client, tmp_path: Path) -> None:
    shared = "FROM busybox AS base\nRUN sleep 1; cat /proc/sys/kernel/random/uuid > /once\nFROM base\n"
    builds = []
    for number in range(4):
        where = context(tmp_path / str(number), f"{shared}RUN echo {number} > /own\n")
        words = ["docker", "build", "-t", f"shared{number}", str(where)]
        builds.append(subprocess.Popen(words, env=client.environment, stderr=subprocess.PIPE))
    assert [process.communicate(timeout=100) and process.returncode for process in builds] == [0] * 4
    made = {
        client.engine.docker("run", "--rm", f"shared{number}", "cat", "/once").stdout for number in range(len(builds))
    }
    assert len(made) == 1
    assert {client.engine.docker("run", "--rm", f"shared{n}", "cat", "/own").stdout for n in range(4)} == {
        f"{n}\n" for n in range(4)
    }
