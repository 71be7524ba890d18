"""Docker's small rules, asked of both engines."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from .conftest import Asked, Question

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
