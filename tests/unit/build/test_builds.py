"""Whole builds over fakes: order of output, cache, stages, failures, and what is left behind."""

from __future__ import annotations

import asyncio
import io
import json
import re
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from services.image.build.builds import Builder, Source
from services.image.build.ports import BuiltImage, Output, RunOrder
from services.image.build.steps.changes import changed_config
from services.image.build.workdirs import WorkDirectories
from shared.bus.streams import StreamRef
from shared.contracts.docker import ContainerConfig
from shared.contracts.images import BuildImage
from shared.errors import DavitError, InvalidArgument
from tests.unit.build.fakes import FakeExecutor, FakeImages, files_of, words_of


class FakeStream:
    """The server's end of a stream: gives the context, keeps what is written."""

    def __init__(self, context: bytes) -> None:
        self._chunks = [context[at : at + 1000] for at in range(0, len(context), 1000)]
        self.written = b""
        self._gone = asyncio.Event()
        self.error: BaseException | None = None

    async def read(self) -> bytes:
        return self._chunks.pop(0) if self._chunks else b""

    async def write(self, data: bytes) -> None:
        self.written += data

    async def gone(self) -> None:
        await self._gone.wait()

    def leave(self) -> None:
        self._gone.set()

    async def __aenter__(self) -> FakeStream:
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self.error = error


def tar(files: Mapping[str, bytes | str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as out:
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.mode, info.size = 0o644, len(data)
            out.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


class Lab:
    def __init__(self, root: Path) -> None:
        self.images = FakeImages(root / "images")
        self.executor = FakeExecutor(root / "executor")
        self.directories = WorkDirectories(root / "build", root / "run")
        self.directories.prepare()
        self.builder = Builder(self.images, self.executor, self.directories)
        self.root = root

    async def build(self, dockerfile: str, files: Mapping[str, bytes | str] | None = None, /, **request: Any) -> Built:
        stream = FakeStream(tar({"Dockerfile": dockerfile, **(files or {})}))
        await self.builder.serve(Source(BuildImage(stream=StreamRef(id="x"), **request), stream))  # type: ignore[arg-type]
        return Built(stream.written, self)

    def leftovers(self) -> list[Path]:
        tars = [target.path for target in self.images.targets if target.path.exists()]
        return [path for name in ("build/tmp", "run") for path in (self.root / name).iterdir()] + tars


class Built:
    def __init__(self, written: bytes, lab: Lab) -> None:
        self.lines = [json.loads(line) for line in written.splitlines()]
        self.text = "".join(line.get("stream", "") for line in self.lines)
        self.error: Any = next((line["errorDetail"] for line in self.lines if "errorDetail" in line), None)
        self.ids = [line["aux"]["ID"] for line in self.lines if "aux" in line]
        self._lab = lab

    @property
    def image(self) -> BuiltImage:
        assert self.error is None, self.error
        return self._lab.images.images[self.ids[-1]]


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path)
    lab.images.base("busybox", {"bin/sh": b"sh", "etc/passwd": b"root:x:0:0::/:\nme:x:7:8::/:\n", "tmp/": None})
    return lab


async def echo(order: RunOrder, upper: Path, output: Output) -> int:
    """Stands for a shell that knows `echo text > /file`, `false` and `cat` of its own."""
    command = words_of(order)[-1]
    for part in command.split("&&"):
        match = re.match(r"\s*echo (.*?)\s*(?:> /(\S+))?\s*$", part)
        if match and match.group(2):
            (upper / match.group(2)).write_text(match.group(1) + "\n")
        elif match:
            await output(False, match.group(1).encode() + b"\n")
        elif part.strip() == "false":
            return 1
        elif part.strip() == "warn":
            await output(True, b"careful\n")
    return 0


async def test_output_is_that_of_the_classic_builder(lab: Lab) -> None:
    lab.executor.script = echo
    built = await lab.build(
        "ARG v=busybox\nFROM $v AS a\nRUN echo hi && warn\nLABEL a=b\n",
        labels={"l2": "x y", "l1": "2"},
        tags=["app", "app:2"],
    )
    text = re.sub(r"[0-9a-f]{12}", "ID", built.text)
    assert text == (
        "Step 1/6 : ARG v=busybox\n"
        "Step 2/6 : FROM $v AS a\n ---> ID\n"
        "Step 3/6 : RUN echo hi && warn\n ---> Running in ID\nhi\n\x1b[91mcareful\n\x1b[0m"
        "Removing intermediate container ID\n ---> ID\n"
        "Step 4/6 : LABEL a=b\n ---> ID\n"
        "Step 5/6 : LABEL l1=2\n ---> ID\n"
        "Step 6/6 : LABEL l2=x y\n ---> ID\n"
        "Successfully built ID\nSuccessfully tagged app:latest\nSuccessfully tagged app:2\n"
    )
    assert built.image.config.labels == {"a": "b", "l1": "2", "l2": "x y"}
    assert lab.images.names["app:2"] == built.image.id
    assert lab.leftovers() == []
    assert lab.executor.containers == {}


async def test_second_build_takes_everything_from_the_cache(lab: Lab) -> None:
    lab.executor.script = echo
    dockerfile = "FROM busybox\nARG who=me\nENV A=1\nCOPY a.txt /\nRUN echo $who > /made\nWORKDIR /new\nCMD x\n"
    first = await lab.build(dockerfile, {"a.txt": "1"})
    again = await lab.build(dockerfile, {"a.txt": "1"})
    assert again.ids == first.ids
    assert again.text.count("Using cache") == 6
    changed = await lab.build(dockerfile, {"a.txt": "2"})
    assert changed.text.count("Using cache") == 2
    assert (await lab.build(dockerfile, {"a.txt": "1"}, build_args={"who": "you"})).text.count("Using cache") == 3
    assert (await lab.build(dockerfile, {"a.txt": "1"}, no_cache=True)).text.count("Using cache") == 0


async def test_run_sees_arguments_and_history_keeps_them(lab: Lab) -> None:
    lab.executor.script = echo
    built = await lab.build(
        "FROM busybox\nENV seen=1\nARG seen=2\nARG a=x\nARG b\nRUN echo $a",
        build_args={"b": "given", "HTTP_PROXY": "http://p", "other": "z"},
    )
    order = lab.executor.orders[0]
    assert words_of(order) == ["/bin/sh", "-c", "echo $a"]
    assert {"seen=1", "a=x", "b=given", "HTTP_PROXY=http://p"} <= set(order.config.env)
    assert lab.images.stored[-1].created_by == "|2 a=x b=given /bin/sh -c echo $a"
    assert "[Warning] One or more build-args [other] were not consumed\n" in built.text
    assert not [item for item in built.image.config.env if item.startswith(("a=", "b=", "HTTP"))]


async def test_only_needed_stages_are_built(lab: Lab) -> None:
    lab.executor.script = echo
    built = await lab.build(
        "FROM busybox AS one\nRUN echo 1 > /one\nFROM busybox AS unused\nRUN false\n"
        "FROM scratch\nCOPY --from=one /one /got\nCOPY --from=0 /one /got2\n"
    )
    assert "Step 1/5" in built.text
    assert "false" not in built.text
    assert files_of(built.image) == {"got": b"1\n", "got2": b"1\n"}


async def test_target_and_stage_as_base(lab: Lab) -> None:
    lab.executor.script = echo
    dockerfile = "FROM busybox AS a\nENV x=1\nFROM a AS b\nENV y=2\nFROM b\nRUN false\n"
    built = await lab.build(dockerfile, target="B")
    assert [item for item in built.image.config.env if "PATH" not in item] == ["x=1", "y=2"]
    with pytest.raises(InvalidArgument, match="failed to reach build target zz in Dockerfile"):
        await lab.build(dockerfile, target="zz")


async def test_independent_stages_run_side_by_side_and_speak_in_order(lab: Lab) -> None:
    both = asyncio.Barrier(2)

    async def meet(order: RunOrder, upper: Path, output: Output) -> int:
        await asyncio.wait_for(both.wait(), 5)  # fails unless both stages run at once
        name = words_of(order)[-1]
        if name == "first":
            await asyncio.sleep(0.05)
        await output(False, f"I am {name}\n".encode())
        (upper / name).write_text(name)
        return 0

    lab.executor.script = meet
    built = await lab.build(
        "FROM busybox AS a\nRUN first\nFROM busybox AS b\nRUN second\nFROM scratch\n"
        "COPY --from=a /first /\nCOPY --from=b /second /\n"
    )
    assert files_of(built.image) == {"first": b"first", "second": b"second"}
    steps = [int(number) for number in re.findall(r"Step (\d)/7", built.text)]
    assert steps == sorted(steps)
    assert built.text.index("I am first") < built.text.index("Step 3/7") < built.text.index("I am second")


async def test_failing_command(lab: Lab) -> None:
    lab.executor.script = echo
    built = await lab.build("FROM busybox\nRUN echo no && false\n")
    assert built.error == {
        "code": 1,
        "message": "The command '/bin/sh -c echo no && false' returned a non-zero code: 1",
    }
    assert len(lab.executor.containers) == 1  # stays to be looked at, as with Docker
    forced = await lab.build("FROM busybox\nRUN false\n", force_rm=True)
    assert forced.error["code"] == 1
    assert len(lab.executor.containers) == 1


async def test_client_that_leaves_ends_the_build(lab: Lab) -> None:
    started = asyncio.Event()

    async def forever(order: RunOrder, upper: Path, output: Output) -> int:
        started.set()
        await asyncio.Event().wait()
        return 0

    lab.executor.script = forever
    stream = FakeStream(tar({"Dockerfile": "FROM busybox AS a\nRUN x\nFROM busybox\nRUN y\nCOPY --from=a / /\n"}))
    task = asyncio.create_task(lab.builder.serve(Source(BuildImage(stream=StreamRef(id="x")), stream)))  # type: ignore[arg-type]
    await started.wait()
    stream.leave()
    await asyncio.wait_for(task, 5)
    assert lab.executor.containers == {}
    assert lab.leftovers() == []
    assert b"Successfully" not in stream.written


async def test_quiet_tells_only_the_id_or_the_failure(lab: Lab) -> None:
    lab.executor.script = echo
    built = await lab.build("FROM busybox\nENV a=b\n", quiet=True)
    assert built.text == f"{next(reversed(lab.images.images))}\n"
    failed = await lab.build("FROM busybox\nRUN false\n", quiet=True)
    assert failed.text.startswith("Step 1/2 : FROM busybox\n")
    assert failed.error["code"] == 1


@pytest.mark.parametrize(
    ("dockerfile", "text"),
    [
        (
            "FROM busybox\nCOPY nope /\n",
            "COPY failed: file not found in build context or excluded by .dockerignore: stat nope: file does not exist",
        ),
        ("FROM busybox\nCOPY no*pe /\n", "COPY failed: no source files were specified"),
        ("FROM busybox\nCOPY ../x /\n", "COPY failed: forbidden path outside the build context: ../x ()"),
        (
            "FROM busybox\nCOPY a b /c\n",
            "When using COPY with more than one source file, the destination must be a directory and end with a /",
        ),
        ("FROM busybox\nCOPY --from=9 a /\n", "invalid from flag value 9: index out of bounds"),
        ("FROM busybox\nCOPY --from=busybox /nope /\n", "COPY failed: stat nope: file does not exist"),
        (
            "FROM busybox\nCOPY --chown=who a /\n",
            "unable to convert uid/gid chown string to host mapping: can't find uid for user who: no such user: who",
        ),
        ("FROM busybox\nCOPY http://x/y /\n", "COPY failed: source can't be a URL for COPY"),
        ("FROM busybox\nSTOPSIGNAL BOGUS\n", "Invalid signal: BOGUS"),
        ("FROM busybox\nEXPOSE x\n", "Invalid containerPort: x"),
        ("FROM busybox\nENV a=${}\n", 'failed to process "${}": syntax error: bad substitution'),
        ("FROM ${nope}\n", "base name (${nope}) should not be blank"),
        ("FROM scratch\n", "No image was generated. Is your Dockerfile empty?"),
        (
            "FROM --platform=bad/x/y/z busybox\n",
            'failed to parse platform bad/x/y/z: "bad/x/y/z": cannot parse platform specifier: invalid argument',
        ),
    ],
)
async def test_errors_while_building(lab: Lab, dockerfile: str, text: str) -> None:
    built = await lab.build(dockerfile, {"a": "1", "b": "2"})
    assert built.error == {"message": text}
    assert lab.leftovers() == []


@pytest.mark.parametrize(
    ("dockerfile", "request_fields", "text"),
    [
        ("FROM busybox\nBOGUS x", {}, "dockerfile parse error line 2: unknown instruction: BOGUS"),
        ("", {}, "the Dockerfile (Dockerfile) cannot be empty"),
        ("FROM busybox", {"dockerfile": "nope"}, "Cannot locate specified Dockerfile: nope"),
        ("FROM busybox", {"dockerfile": "../x"}, "forbidden path outside the build context: ../x ()"),
        ("FROM busybox", {"tags": ["BAD"]}, "invalid reference format: repository name must be lowercase"),
        ("FROM busybox", {"squash": True}, "squash is only supported with experimental mode"),
        ("FROM busybox", {"isolation": "bad"}, 'Unsupported isolation: "bad"'),
    ],
)
async def test_errors_before_anything_is_built(
    lab: Lab, dockerfile: str, request_fields: dict[str, Any], text: str
) -> None:
    with pytest.raises(DavitError) as caught:
        await lab.build(dockerfile, **request_fields)
    assert str(caught.value) == text
    assert lab.leftovers() == []


async def test_onbuild_triggers_run_in_the_child(lab: Lab) -> None:
    lab.executor.script = echo
    await lab.build("FROM busybox\nONBUILD RUN echo 1\nONBUILD COPY a.txt /\n", {"a.txt": "A"}, tags=["parent:1"])
    built = await lab.build("FROM parent:1\nENV a=b", {"a.txt": "B"})
    assert "# Executing 2 build triggers\n" in built.text
    assert "Step 2/2 : ENV a=b" in built.text
    assert files_of(built.image)["a.txt"] == b"B"
    assert not built.image.config.on_build


async def test_cache_from_uses_history(lab: Lab, tmp_path: Path) -> None:
    lab.executor.script = echo
    dockerfile = "FROM busybox\nRUN echo 1 > /one\nENV x=1\nRUN echo 2 > /two\n"
    first = await lab.build(dockerfile, tags=["seed:1"])
    lab.images.cache.clear()
    again = await lab.build(dockerfile, cache_from=["seed:1"])
    assert again.text.count("Using cache") == 3
    assert again.image.diff_ids == first.image.diff_ids
    lab.images.cache.clear()
    longer = await lab.build(dockerfile + "ENV z=1\n", cache_from=["seed:1", "absent"])
    assert longer.text.count("Using cache") == 3
    assert files_of(longer.image)["two"] == b"2\n"


async def test_with_cache_from_it_alone_decides(lab: Lab) -> None:
    lab.executor.script = echo
    dockerfile = "FROM busybox\nRUN echo 1 > /one\nENV x=1\n"
    await lab.build(dockerfile, tags=["own:1"])
    await lab.build("FROM busybox\nRUN echo 9 > /nine\n", tags=["other:1"])
    assert "Using cache" not in (await lab.build(dockerfile, cache_from=["other:1"])).text
    assert "Using cache" not in (await lab.build(dockerfile, cache_from=["absent"])).text
    assert (await lab.build(dockerfile, cache_from=["own:1"])).text.count("Using cache") == 2
    shorter = await lab.build("FROM busybox\nRUN echo 1 > /one\n", cache_from=["own:1"])
    assert shorter.text.count("Using cache") == 1


async def test_what_a_client_has_heard_of_can_be_found(lab: Lab) -> None:
    """It may hang up after the id and come again at once."""
    heard: list[bool] = []
    stream = FakeStream(tar({"Dockerfile": "FROM busybox\nLABEL a=b\n"}))
    write = stream.write

    async def writing(data: bytes) -> None:
        for line in data.splitlines():
            if "aux" in (record := json.loads(line)):
                heard.append(record["aux"]["ID"] in lab.images.visible)
        await write(data)

    stream.write = writing  # type: ignore[method-assign]
    await lab.builder.serve(Source(BuildImage(stream=StreamRef(id="x")), stream))  # type: ignore[arg-type]
    assert heard == [True]
    assert len(lab.images.announced) == 1


async def test_secret_reaches_the_command_and_nothing_else(lab: Lab) -> None:
    seen: list[bytes] = []

    async def look(order: RunOrder, upper: Path, output: Output) -> int:
        mount = next(item for item in order.host_config.mounts if item.target == "/run/secrets/token")
        seen.append(Path(mount.source).read_bytes())
        assert mount.read_only
        return 0

    lab.executor.script = look
    dockerfile = "FROM busybox\nRUN --mount=type=secret,id=token,required cat /run/secrets/token\n"
    built = await lab.build(dockerfile, secrets={"token": "aHVudGVyMg=="})
    assert seen == [b"hunter2"]
    assert "hunter2" not in built.text + repr(lab.images.stored) + repr(lab.executor.orders)
    # Another value is no other step.
    assert "Using cache" in (await lab.build(dockerfile, secrets={"token": "eA=="})).text
    missing = await lab.build(dockerfile.replace("cat", "cut"))
    assert missing.error == {
        "message": "secret token: not found: RUN --mount=type=secret,id=token requires it",
    }
    assert lab.leftovers() == []


async def test_cache_mount_keeps_its_content_between_builds(lab: Lab) -> None:
    counts: list[int] = []

    async def count(order: RunOrder, upper: Path, output: Output) -> int:
        place = Path(order.host_config.mounts[0].source)
        counts.append(len(list(place.iterdir())))
        (place / f"file-{len(counts)}").write_text("x")
        (upper / "cache").mkdir()  # the runtime's mount point
        return 0

    lab.executor.script = count
    for _ in range(2):
        built = await lab.build("FROM busybox\nRUN --mount=type=cache,target=/cache make\n", no_cache=True)
    assert counts == [0, 1]
    assert len(built.image.layers) == 1  # the mount point is no change of the command


async def test_bind_mounts_of_context_and_stage(lab: Lab) -> None:
    found: dict[str, bytes] = {}

    async def look(order: RunOrder, upper: Path, output: Output) -> int:
        for mount in order.host_config.mounts:
            source = Path(mount.source)
            found[mount.target] = (source / "f" if source.is_dir() else source).read_bytes()
        return 0

    lab.executor.script = look
    await lab.build(
        "FROM busybox AS a\nCOPY d/f /deep/f\nFROM busybox\nWORKDIR /w\n"
        "RUN --mount=target=src,source=d --mount=type=bind,from=a,source=/deep,target=/st,rw "
        "--mount=type=bind,from=a,source=deep/f,target=/one x",
        {"d/f": "F"},
    )
    assert found == {"/w/src": b"F", "/st": b"F", "/one": b"F"}


async def test_heredocs(lab: Lab) -> None:
    built = await lab.build(
        'FROM busybox\nENV who=you\nCOPY <<-one <<"two" /etc/\n\thi "$who" \\$x a\\b\n\tone\nraw $who\ntwo\n'
        "RUN <<EOF\nset -e\nmake\nEOF\nRUN cat <<EOF > /x\ntext\nEOF\nRUN <<PY\n#!/usr/bin/python\nprint(1)\nPY\n"
    )
    files = files_of(built.image)
    assert files["etc/one"] == b'hi "you" $x a\\b\n'
    assert files["etc/two"] == b"raw $who\n"
    assert [words_of(order)[-1] for order in lab.executor.orders] == [
        "set -e\nmake\n",
        "cat <<EOF > /x\ntext\nEOF",
        "/dev/pipes/PY",
    ]
    assert "print(1)" in lab.images.stored[-1].created_by


async def test_run_options_reach_the_container(lab: Lab) -> None:
    await lab.build(
        "FROM busybox\nRUN --network=none a\nRUN b\n",
        network_mode="mynet",
        memory_bytes=1 << 26,
        extra_hosts=["db:10.0.0.1"],
        ulimits=[{"Name": "nofile", "Soft": 10, "Hard": 20}],
        security_opt=["no-new-privileges"],
    )
    none, default = lab.executor.orders
    assert (none.host_config.network_mode, default.host_config.network_mode) == ("none", "mynet")
    assert default.host_config.memory == 1 << 26
    assert default.host_config.extra_hosts == ["db:10.0.0.1"]
    assert default.host_config.ulimits[0].hard == 20
    assert default.host_config.security_opt == ["no-new-privileges"]


async def test_missing_image_is_pulled_once(lab: Lab) -> None:
    lab.images.remote["far:1"] = lab.images.images[lab.images.names["busybox"]]
    built = await lab.build("FROM far:1 AS a\nENV x=1\nFROM far:1\nCOPY --from=a /bin/sh /x\n")
    assert built.error is None
    assert lab.images.pulled == ["far:1"]
    assert {"status": "Pulling from far:1"} in built.lines
    absent = await lab.build("FROM nowhere\n")
    assert absent.error == {"message": "pull access denied for nowhere"}


def test_changes_outside_of_a_build() -> None:
    config = changed_config(
        ContainerConfig(env=["a=1"], working_dir="/w"),
        ["ENV b=$a c=2\nWORKDIR x", 'CMD ["run", "it"]', "EXPOSE 80", "LABEL l=1"],
    )
    assert (config.env, config.working_dir, config.cmd) == (["a=1", "b=1", "c=2"], "/w/x", ["run", "it"])
    assert (config.exposed_ports, config.labels) == ({"80/tcp": {}}, {"l": "1"})
    with pytest.raises(InvalidArgument, match="run is not a valid change command"):
        changed_config(config, ["RUN x"])


def test_what_a_crash_left_is_removed_at_the_next_start(tmp_path: Path) -> None:
    directories = WorkDirectories(tmp_path / "build", tmp_path / "run")
    assert directories.prepare() == []
    abandoned = tmp_path / "build" / "tmp" / "abandoned"
    abandoned.mkdir()
    (abandoned / "lock").touch()
    (abandoned / "containers").write_text("abc\ndef\n")
    with directories.scratch() as alive:
        alive.note_container("123")
        assert WorkDirectories(tmp_path / "build", tmp_path / "run").prepare() == ["abc", "def"]
        assert alive.path.is_dir()
    assert list((tmp_path / "build" / "tmp").iterdir()) == []


async def test_client_that_leaves_while_a_container_is_being_made(lab: Lab) -> None:
    making = asyncio.Event()
    create = lab.executor.create

    async def slow(order: RunOrder) -> str:
        making.set()
        await asyncio.sleep(0.05)
        return await create(order)

    lab.executor.create = slow  # type: ignore[method-assign]  # the fake, slowed down
    stream = FakeStream(tar({"Dockerfile": "FROM busybox\nRUN x\n"}))
    task = asyncio.create_task(lab.builder.serve(Source(BuildImage(stream=StreamRef(id="x")), stream)))  # type: ignore[arg-type]
    await making.wait()
    stream.leave()
    await asyncio.wait_for(task, 5)
    assert len(lab.executor.orders) == 1
    assert lab.executor.containers == {}
    assert lab.leftovers() == []
