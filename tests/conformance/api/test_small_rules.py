"""Docker's small rules, asked of both engines."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import tarfile
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from .conftest import Asked, Question, UnixConnection

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

CHANGES = [
    ["ENV PATH=/x:$PATH"], ["WORKDIR sub"], ["EXPOSE 90/UDP"], ["EXPOSE 1-3"], ["ENV X=1\nLABEL q=2"],
    ["ENV A 5 6"], ["ENV A=1 \\\n  B=2"], ["CMD echo hi"], ['CMD ["a"'], ['ENTRYPOINT ["x"]'],
    ["ENTRYPOINT []", 'CMD ["x"]'], ["CMD []"], ["ONBUILD RUN x"], ["VOLUME /a /b"], ['VOLUME ["/a b"]'], ["USER $A"],
    ['LABEL a=$A "b c"=d'], ["HEALTHCHECK --interval=5s CMD true"], ["HEALTHCHECK NONE"], ["env lower=1"],
    ["ENV B=$A", "ENV C=$B"], ["FOO x"], ["RUN x"], ["ONBUILD FROM x"], ["SHELL [\"a\"]"], ["MAINTAINER me"],
    ["ARG x=1"], [""], ["# comment"], ["EXPOSE abc"], ["ENV =x"], ["ENV A"], ["LABEL"], ["USER"], ["COPY a b"],
]  # fmt: skip
ABOUT_THE_RUN = ("Hostname", "Image", "AttachStdout", "AttachStderr", "Domainname", "StopTimeout")


def committed(asked: Asked, changes: list[str]) -> Any:
    """The configuration of the image, or the error."""
    flags = [word for change in changes for word in ("--change", change)]
    done = asked.engine.docker("commit", *flags, "changed", check=False)
    if done.returncode:
        return done.stderr.strip()
    found = json.loads(asked.engine.docker("image", "inspect", done.stdout.strip()).stdout)[0]["Config"]
    return {name: value for name, value in found.items() if value and name not in ABOUT_THE_RUN}


def imported(asked: Asked, changes: list[str], tar: Path) -> Any:
    """The same of an import, whose configuration begins empty."""
    flags = [word for change in changes for word in ("--change", change)]
    done = asked.engine.docker("import", *flags, str(tar), check=False)
    if done.returncode:
        return done.stderr.strip()
    found = json.loads(asked.engine.docker("image", "inspect", done.stdout.strip()).stdout)[0]["Config"]
    return {name: value for name, value in found.items() if value and name not in ABOUT_THE_RUN}


@pytest.fixture(scope="module", autouse=True)
def _prepared(davit: Asked, reference: Asked) -> None:
    for asked in (davit, reference):
        asked.engine.docker(
            "create", "--name", "changed", "-e", "PATH=/bin", "-e", "A=1", "-w", "/w", "-l", "l=0", "busybox", "sh"
        )


@pytest.mark.parametrize("changes", CHANGES, ids=" ; ".join)
def test_changes_of_a_commit(davit: Asked, reference: Asked, changes: list[str]) -> None:
    assert committed(davit, changes) == committed(reference, changes)


@pytest.mark.parametrize("changes", CHANGES[:2] + CHANGES[4:6], ids=" ; ".join)
def test_changes_of_an_import(davit: Asked, reference: Asked, changes: list[str], tmp_path: Path) -> None:
    tarfile.open(tmp_path / "empty.tar", "w").close()
    assert imported(davit, changes, tmp_path / "empty.tar") == imported(reference, changes, tmp_path / "empty.tar")


# -- archives --------------------------------------------------------------------------------------------------------


def tar_of(**files: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def piped(asked: Asked, data: bytes, *arguments: str) -> tuple[int, str]:
    """Exit code and standard output of the CLI with an archive on its input."""
    env = asked.engine.environment | {"DOCKER_BUILDKIT": "0"}
    done = subprocess.run(["docker", *arguments], env=env, input=data, capture_output=True, check=False)
    return done.returncode, done.stdout.decode()


FILES = {"one": b"1" * 700, "last": b"z" * 700}
WHOLE = tar_of(**FILES)
END = len(WHOLE.rstrip(b"\0"))
ENDS = {
    "whole": WHOLE, "no padding": WHOLE[:END], "some padding": WHOLE[: END + 9], "no end": WHOLE[: END + -END % 512],
    "data cut": WHOLE[: END - 9], "more behind": WHOLE + b"more",
}  # fmt: skip


@pytest.mark.parametrize("data", ENDS.values(), ids=ENDS)
def test_where_an_archive_ends(davit: Asked, reference: Asked, data: bytes) -> None:
    """Of an import, of cp, and of one that ADD unpacks; the last in a context that ends with its last byte, too."""
    context = tar_of(Dockerfile=b"FROM busybox\nADD a.tar /x/\n", **{"a.tar": data})
    outcomes = []
    for asked in (davit, reference):
        code, output = piped(asked, data, "import", "-")
        codes = [code]
        if code == 0:
            asked.engine.docker("rmi", output.strip())
        codes.append(piped(asked, data, "cp", "-", "changed:/tmp")[0])
        code, output = piped(asked, context[: len(context.rstrip(b"\0"))], "build", "-q", "--no-cache", "-")
        codes.append(code)
        names = ""
        if code == 0:
            names = asked.engine.docker("run", "--rm", output.strip().splitlines()[-1], "ls", "/x").stdout
        outcomes.append((codes, names))
    assert outcomes[0] == outcomes[1]


def test_a_saved_image_without_its_last_bytes_is_loaded(davit: Asked, reference: Asked) -> None:
    for asked in (davit, reference):
        env = asked.engine.environment
        saved = subprocess.run(["docker", "save", "busybox"], env=env, capture_output=True, check=True).stdout
        code, output = piped(asked, saved.rstrip(b"\0"), "load")
        assert (code, output) == (0, "Loaded image: busybox:latest\n")


# -- paths of cp -----------------------------------------------------------------------------------------------------

PREPARED = (
    "mkdir -p /d/sub; echo 1 >/d/f; echo 2 >/d/sub/g; ln -s /d /link; ln -s /d/f /lf; ln -s /nowhere /dang; "
    "ln -s d /rel; ln -s /link /ll; ln -s loop /loop; ln -s /vol /into; echo v >/vol/v; ln -s /d /vol/out; sleep 9999"
)
PATHS = [
    "/d", "/d/", "/d/.", "/link", "/link/", "/link/.", "/lf", "/lf/", "/lf/.", "/d/f", "/d/f/", "/d/f/.", "/dang",
    "/dang/", "/dang/.", "/nope", "/nope/", "/d/nope", "/d/f/x", "/rel/", "/ll", "/ll/", "/ll/.", "/loop/", "d", "./d",
    "/d/sub/..", "/d/sub/../", "/link/sub", "//d//", "/d/./", "/into/", "/into/v", "/vol/.", "/vol/out/.", "/vol/out/f",
    "/" + "a" * 5000, "/" + "c" * 256, "/d%00x",
]  # fmt: skip


@pytest.fixture(scope="module")
def _copied(davit: Asked, reference: Asked) -> None:
    for asked in (davit, reference):
        asked.engine.docker("run", "-d", "--name", "copied", "-v", "/vol", "busybox", "sh", "-c", PREPARED)
        asked.engine.docker("exec", "copied", "sh", "-c", "until [ -L /vol/out ]; do :; done")
        asked.engine.docker("stop", "-t", "0", "copied")


def archived(asked: Asked, path: str) -> object:
    """What is at a path of the container, and the names in its archive; only that it is an error, if it is one."""
    answer = asked.ask(Question("GET", f"/containers/copied/archive?path={path}"))
    if answer.status != 200:
        return "error" if answer.status != 404 else answer.message
    stat = json.loads(base64.b64decode(answer.headers["x-docker-container-path-stat"]))
    with tarfile.open(fileobj=io.BytesIO(answer.body)) as tar:
        names = [member.name for member in tar]
    return stat["name"], stat["mode"], stat["linkTarget"], sorted(names)


@pytest.mark.usefixtures("_copied")
@pytest.mark.parametrize("running", [False, True])
def test_paths_of_copies(davit: Asked, reference: Asked, running: bool) -> None:
    for asked in (davit, reference):
        asked.engine.docker("start" if running else "stop", "copied")
    for path in PATHS:
        found, wanted = archived(davit, path), archived(reference, path)
        assert found == wanted, path


@pytest.mark.usefixtures("_copied")
@pytest.mark.parametrize(("path", "first"), [("/", "/"), ("/link/..", "/"), ("/.", "./"), ("..", "/")])
def test_names_of_the_root(davit: Asked, reference: Asked, path: str, first: str) -> None:
    for asked in (davit, reference):
        body = asked.ask(Question("GET", f"/containers/copied/archive?path={path}")).body
        names = {body[:100].rstrip(b"\0").decode(), body[512 : 512 + 100].rstrip(b"\0").decode()[: len(first)]}
        assert names == {first}, (asked.engine, body[:700])


@pytest.mark.usefixtures("_copied")
@pytest.mark.parametrize("path", ["/link/.", "/ll/.", "/link/", "/vol/out/."])
def test_what_a_link_leads_to_is_copied(davit: Asked, reference: Asked, path: str, tmp_path: Path) -> None:
    copied = []
    for number, asked in enumerate((davit, reference)):
        out = tmp_path / str(number)
        out.mkdir()
        asked.engine.docker("cp", f"copied:{path}", str(out))
        copied.append(sorted(str(one.relative_to(out)) for one in out.rglob("*")))
    assert copied[0] == copied[1]
    assert any(name.endswith("sub/g") for name in copied[0])


# -- images and builds -----------------------------------------------------------------------------------------------


def answered(asked: Asked, method: str, path: str, body: bytes | None = None) -> tuple[int, str]:
    """Status, and whether the body tells of an error in the stream."""
    connection = UnixConnection(asked.engine.url.removeprefix("unix://"))
    try:
        connection.request(method, f"/v1.41{path}", body, {"Content-Type": "application/x-tar"} if body else {})
        response = connection.getresponse()
        data = response.read()
        return response.status, "error in the stream" if b"errorDetail" in data else ""
    finally:
        connection.close()


CONTEXT = tar_of(Dockerfile=b"FROM busybox\nLABEL a=b\n")
REQUESTS: dict[str, tuple[str, str, bytes | None]] = {
    **{
        f"tag {repo}": ("POST", f"/images/busybox/tag?repo={quote(repo, safe='')}&tag={tag}", None)
        for repo, tag in (("sha256:x", ""), ("sha256", "x"), ("sha256/x", "1"), ("docker.io/sha256", "x"))
    },
    "load nothing": ("POST", "/images/load", b""),
    "load junk": ("POST", "/images/load?quiet=1", b"junk" * 400),
    "load zeros": ("POST", "/images/load", bytes(1024)),
    **{
        f"build for {text}": ("POST", f"/build?q=1&platform={quote(text, safe='')}", CONTEXT)
        for text in ("foobar", "a/b/c/d", "/", "linux/", "linux/x86_64", "x86_64", "linux/amd64")
    },
    **{
        f"import {source!r}": ("POST", f"/images/create?fromSrc={quote(source, safe='')}", None)
        for source in ("http://127.0.0.1:1/x", "http://127.0.0.1:1/\x01x", "\x01", "nosuch.invalid/x.tar", "-x")
    },
    **{
        f"pull {name}": ("POST", f"/images/create?fromImage={quote(name, safe='')}", None)
        for name in ("127.0.0.1:1/x:latest", "nosuch.invalid/x:1", "BAD")
    },
}


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
def test_answers_about_images(davit: Asked, reference: Asked, request_: tuple[str, str, bytes | None]) -> None:
    assert answered(davit, *request_) == answered(reference, *request_)


@pytest.mark.parametrize("directory", ["/tmp/", "/a/../b", "/x//y/.", "/../z", "//d", "rel", ""])
def test_working_directories(davit: Asked, reference: Asked, directory: str) -> None:
    found = []
    for asked in (davit, reference):
        body = json.dumps({"Image": "busybox", "Cmd": ["pwd"], "WorkingDir": directory})
        made = asked.ask(Question("POST", "/containers/create", body))
        if made.status != 201:
            found.append((made.status, made.message, ""))
            continue
        config = asked.ask(Question("GET", f"/containers/{made.json['Id']}/json")).json["Config"]
        printed = asked.engine.docker("start", "-a", made.json["Id"]).stdout
        found.append((201, config["WorkingDir"], printed))
    assert found[0] == found[1]


@pytest.mark.parametrize("test", [["true"], [""], ["NONE", "x"], ["CMD"], ["CMD-SHELL"], ["none"], []], ids=str)
def test_health_checks_of_any_kind_are_taken(davit: Asked, reference: Asked, test: list[str]) -> None:
    body = json.dumps({"Image": "busybox", "Cmd": ["true"], "Healthcheck": {"Test": test}})
    statuses = [asked.ask(Question("POST", "/containers/create", body)).status for asked in (davit, reference)]
    assert statuses[0] == statuses[1]


@pytest.mark.parametrize(
    "text", ["busybox", "docker.io/library/busybox", "*busy*", "busybox:l*", "docker.io/*/busybox"]
)
def test_reference_filters(davit: Asked, reference: Asked, text: str) -> None:
    path = f"/images/json?filters={quote(json.dumps({'reference': [text]}))}"
    found = [
        {tag for one in asked.ask(Question("GET", path)).json for tag in one["RepoTags"]}
        for asked in (davit, reference)
    ]
    assert ("busybox:latest" in found[0]) == ("busybox:latest" in found[1])


FILTERS = [
    ("GET", "/containers/json?all=1", {"label": {"l": False}}),
    ("GET", "/containers/json?all=1", {"name": {"changed": False}}),
    ("GET", "/containers/json", {"zzz": ["1"]}),
    ("GET", "/containers/json", {"is-task": ["x"]}),
    ("GET", "/images/json", {"dangling": ["T"]}),
    ("GET", "/images/json", {"dangling": {"true": False}}),
    ("GET", "/networks", {"dangling": ["True"]}),
    ("GET", "/volumes", {"dangling": ["T"]}),
    *(("POST", f"/{kind}/prune", {"zzz": ["1"]}) for kind in ("containers", "images", "networks", "volumes")),
    *(("POST", f"/{kind}/prune", {"label": {"nosuch": False}}) for kind in ("containers", "networks", "volumes")),
    ("POST", "/volumes/prune", {"until": ["1h"]}),
]


@pytest.mark.parametrize(("method", "path", "filters"), FILTERS, ids=str)
def test_filters(davit: Asked, reference: Asked, method: str, path: str, filters: dict[str, object]) -> None:
    join = "&" if "?" in path else "?"
    question = Question(method, f"{path}{join}filters={quote(json.dumps(filters))}")
    found, wanted = davit.ask(question), reference.ask(question)
    assert found.status == wanted.status
    if found.status == 200 and method == "GET":
        assert sorted(one["Names"][0] for one in found.json) == sorted(one["Names"][0] for one in wanted.json)
    if method == "POST":
        assert [value for name, value in found.json.items() if name.endswith("Deleted") and value] == []


@pytest.mark.parametrize("kind", ["network", "container"])
def test_a_full_id_before_a_name_before_a_prefix(davit: Asked, reference: Asked, kind: str) -> None:
    for asked in (davit, reference):
        docker = asked.engine.docker
        make = (["network", "create"], []) if kind == "network" else (["create", "--name"], ["busybox", "true"])

        def create(name: str) -> str:
            return docker(*make[0], name, *make[1]).stdout.strip()  # noqa: B023 (called before the next turn)

        meant = create("meant")
        by_id, by_prefix = create(meant), create(meant[:10])
        remove = [kind, "rm"]
        docker(*remove, meant[:10])
        listed = docker(kind, "ls", *([] if kind == "network" else ["-a"]), "-q", "--no-trunc").stdout.split()
        assert by_prefix not in listed, "a name, though an id begins with it"
        assert {meant, by_id} <= set(listed)
        docker(*remove, meant)
        listed = docker(kind, "ls", *([] if kind == "network" else ["-a"]), "-q", "--no-trunc").stdout.split()
        assert meant not in listed, "an id, though another has it as its name"
        assert by_id in listed
        docker(*remove, by_id)


def test_what_cache_from_takes(davit: Asked, reference: Asked) -> None:
    """How many steps are taken from the cache, by the images that are named and by what was built before."""
    counts = []
    for asked in (davit, reference):
        context = tar_of(Dockerfile=b"FROM busybox\nENV cached=1\nLABEL cached=2\n")
        other = tar_of(Dockerfile=b"FROM busybox\nENV other=1\n")
        piped(asked, context, "build", "-t", "cached:1", "-")
        piped(asked, other, "build", "-t", "other:1", "-")
        found = [
            piped(asked, context, "build", *flags, "-")[1].count("Using cache")
            for flags in ([], ["--cache-from", "other:1"], ["--cache-from", "cached:1"], ["--cache-from", "absent:1"])
        ]
        counts.append(found)
    assert counts[0] == counts[1]


def test_a_dockerfile_from_elsewhere(davit: Asked, reference: Asked, tmp_path: Path) -> None:
    """`-f -` and `-f /elsewhere`: the CLI's own archives end with the last file's bytes."""
    (tmp_path / "context").mkdir()
    (tmp_path / "context/file").write_text("content\n")
    (tmp_path / "Elsewhere").write_text("FROM busybox\nCOPY file /\n")
    for asked in (davit, reference):
        dockerfile = (tmp_path / "Elsewhere").read_bytes()
        for flags in (["-f", "-"], ["-f", str(tmp_path / "Elsewhere")]):
            code, output = piped(asked, dockerfile, "build", "-q", *flags, str(tmp_path / "context"))
            assert code == 0, (asked.engine, flags)
            assert (
                asked.engine.docker("run", "--rm", output.strip().splitlines()[-1], "cat", "/file").stdout
                == "content\n"
            )
