"""What the HTTP edge adds: raw connections, streams, old versions, and the SDK beside the CLI."""

from __future__ import annotations

import gc
import io
import json
import os
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from docker.errors import APIError, ImageNotFound, NotFound

from tests.lab.engine import Engine, eventually

pytestmark = pytest.mark.root


@pytest.fixture
def sdk(engine: Engine) -> Iterator[docker.DockerClient]:
    client = docker.DockerClient(base_url=engine.url, version="auto", timeout=30)
    yield client
    client.close()


def output(engine: Engine, *arguments: str, **options: object) -> str:
    return engine.docker(*arguments, **options).stdout.strip()  # type: ignore[arg-type]


class TestVersions:
    @pytest.mark.parametrize("version", ["1.24", "1.30", "1.40", "1.41", "1.44", "1.47", "1.50", "1.52", "1.56"])
    def test_each_version_runs_a_container(self, engine: Engine, version: str) -> None:
        client = docker.APIClient(base_url=engine.url, version=version)
        try:
            host_config = client.create_host_config()
            made = client.create_container("busybox", ["sh", "-c", "echo hi; exit 4"], host_config=host_config)
            client.start(made["Id"])
            assert client.wait(made["Id"])["StatusCode"] == 4
            assert client.logs(made["Id"]) == b"hi\n"
            assert client.inspect_container(made["Id"])["State"]["ExitCode"] == 4
            assert [line["Id"] for line in client.containers(all=True)] == [made["Id"]]
            client.remove_container(made["Id"])
        finally:
            client.close()

    def test_the_cli_negotiates_and_refuses(self, engine: Engine) -> None:
        result = subprocess.run(
            ["docker", "ps"], env=engine.environment | {"DOCKER_API_VERSION": "1.23"}, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert result.returncode == 1
        assert "client version 1.23 is too old" in result.stderr


class TestExecTerminals:
    @pytest.mark.parametrize(
        ("version", "at_create", "at_start", "size"),
        [
            ("1.50", [11, 22], None, "11 22"),
            ("1.50", [11, 22], [33, 44], "33 44"),
            ("1.50", None, [33, 44], "33 44"),
            ("1.41", [11, 22], [33, 44], "stty: standard input"),
        ],
    )
    def test_the_size_of_a_console_is_that_of_start_or_create(
        self, engine: Engine, version: str, at_create: list[int] | None, at_start: list[int] | None, size: str
    ) -> None:
        engine.docker("run", "-d", "--name", "sized", "busybox", "sleep", "100")
        client = docker.APIClient(base_url=engine.url, version=version)
        try:
            made = client._post_json(
                client._url("/containers/sized/exec"),
                data={"Cmd": ["stty", "size"], "Tty": True, "AttachStdout": True, "ConsoleSize": at_create},
            ).json()
            started = client._post_json(
                client._url(f"/exec/{made['Id']}/start"), data={"Tty": True, "ConsoleSize": at_start}, stream=True
            )
            assert started.raw.read().decode().strip() == size
        finally:
            client.close()


class TestAttach:
    def test_stdin_and_its_end_reach_a_container_made_for_it(self, engine: Engine) -> None:
        engine.docker("create", "-i", "--name", "cat", "busybox", "sh", "-c", "sed s/^/got-/; echo end")
        assert output(engine, "start", "-a", "-i", "cat", stdin="one\ntwo\n") == "got-one\ngot-two\nend"
        assert output(engine, "wait", "cat") == "0"

    def test_stdin_of_a_detached_container_stays_open_for_the_next_client(self, engine: Engine) -> None:
        engine.docker("run", "-d", "-i", "--name", "lines", "busybox", "sh", "-c", "read a; echo $a; read b; echo $b")
        for word in ("one", "two"):
            client = engine.docker_popen("attach", "lines", stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
            assert client.stdin is not None
            client.stdin.write(f"{word}\n".encode())
            client.stdin.close()
            eventually(lambda: word in output(engine, "logs", "lines"), what=f"the echo of {word}")  # noqa: B023
            if word == "one":
                client.kill()  # it would pass on anything gentler
            client.wait(10)
        assert output(engine, "wait", "lines") == "0"

    def test_attach_before_start_sees_the_first_byte(self, engine: Engine) -> None:
        engine.docker("create", "--name", "first", "busybox", "echo", "first")
        assert output(engine, "start", "-a", "first") == "first"

    def test_a_mebibyte_passes_unchanged_both_ways(self, engine: Engine) -> None:
        data = "".join(f"{number:07d}\n" for number in range(131072))
        assert engine.docker("run", "--rm", "-i", "busybox", "cat", stdin=data).stdout == data

    def test_two_clients_see_the_same(self, engine: Engine) -> None:
        engine.docker("run", "-d", "--name", "twice", "busybox", "sh", "-c", "sleep 2; echo both")
        clients = [engine.docker_popen("attach", "twice", stdout=subprocess.PIPE) for _ in range(2)]
        assert [client.communicate(timeout=20)[0] for client in clients] == [b"both\n", b"both\n"]

    def test_the_sdk_attaches_over_a_socket(self, engine: Engine, sdk: docker.DockerClient) -> None:
        container = sdk.containers.create("busybox", "cat", stdin_open=True, tty=False)
        attached = container.attach_socket(params={"stdin": 1, "stdout": 1, "stream": 1})
        container.start()
        attached._sock.sendall(b"over the socket\n")
        attached._sock.shutdown(1)
        data = b""
        while chunk := attached._sock.recv(4096):
            data += chunk
        assert data == b"\x01\0\0\0\0\0\0\x10over the socket\n"
        attached.close()


class TestExec:
    def test_stdin_output_and_codes(self, engine: Engine) -> None:
        engine.docker("run", "-d", "--name", "host", "busybox", "sleep", "1000")
        assert output(engine, "exec", "-i", "host", "wc", "-c", stdin="x" * 300_000) == "300000"
        result = engine.docker("exec", "host", "sh", "-c", "echo out; echo err >&2; exit 9", check=False)
        assert (result.stdout, result.stderr, result.returncode) == ("out\n", "err\n", 9)
        assert engine.docker("exec", "host", "nosuchcommand", check=False).returncode in (126, 127)
        assert engine.docker("exec", "host", "/etc/passwd", check=False).returncode == 126
        assert output(engine, "exec", "-e", "A=b", "-w", "/tmp", "-u", "nobody", "host", "sh", "-c", "echo $A $PWD $(id -u)") == "b /tmp 65534"  # fmt: skip  # noqa: E501

    def test_detached_and_refused(self, engine: Engine) -> None:
        engine.docker("run", "-d", "--name", "host", "busybox", "sleep", "1000")
        engine.docker("exec", "-d", "host", "touch", "/made")
        eventually(lambda: engine.docker("exec", "host", "test", "-e", "/made", check=False).returncode == 0)
        engine.docker("kill", "host")
        result = engine.docker("exec", "host", "true", check=False)
        assert result.returncode == 1
        assert "is not running" in result.stderr

    # The SDK never closes the sockets of its execs.
    @pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
    def test_through_the_sdk(self, sdk: docker.DockerClient) -> None:
        container = sdk.containers.run("busybox", "sleep 1000", detach=True)
        code, (out, err) = container.exec_run(["sh", "-c", "echo o; echo e >&2; exit 2"], demux=True)
        assert (code, out, err) == (2, b"o\n", b"e\n")
        pieces = b"".join(container.exec_run("echo streamed", stream=True).output)
        assert pieces == b"streamed\n"
        gc.collect()  # while the warnings about them are still ignored


class TestFiles:
    def test_copy_in_and_out(self, engine: Engine, tmp_path: Path) -> None:
        source = tmp_path / "tree"
        source.mkdir()
        (source / "file").write_text("content\n")
        engine.docker("run", "-d", "--name", "box", "busybox", "sleep", "1000")
        engine.docker("cp", str(source), "box:/tmp/tree")
        assert output(engine, "exec", "box", "cat", "/tmp/tree/file") == "content"
        engine.docker("cp", "box:/tmp/tree", str(tmp_path / "back"))
        assert (tmp_path / "back" / "file").read_text() == "content\n"
        result = engine.docker("cp", "box:/nosuch", str(tmp_path), check=False)
        assert "Could not find the file /nosuch in container box" in result.stderr

    def test_a_whole_root_comes_without_what_the_kernel_shows(self, engine: Engine, sdk: docker.DockerClient) -> None:
        """/proc alone changes while it is read, and is not the container's."""
        container = sdk.containers.run("busybox", "sleep 1000", detach=True, volumes={"kept": {"bind": "/kept"}})
        engine.docker("exec", container.id, "touch", "/kept/file", "/dev/shm/file")
        for archive, with_volumes in ((container.get_archive("/")[0], True), (container.export(), False)):
            with tarfile.open(fileobj=io.BytesIO(b"".join(archive))) as tar:
                names = {name.removeprefix("/") for name in tar.getnames()}
            assert {"proc", "sys", "dev", "kept", "bin/busybox"} <= names
            assert not [name for name in names if name.startswith(("proc/", "sys/", "dev/"))]
            assert ("kept/file" in names) is with_volumes
        with tarfile.open(fileobj=io.BytesIO(b"".join(container.get_archive("/proc")[0]))) as tar:
            assert tar.getnames() == ["proc"]

    def test_resizing_what_has_no_terminal_is_no_error(self, sdk: docker.DockerClient) -> None:
        container = sdk.containers.run("busybox", "sleep 1000", detach=True)
        container.resize(20, 30)

    def test_an_empty_archive_changes_nothing(self, sdk: docker.DockerClient) -> None:
        container = sdk.containers.create("busybox", "true")
        assert container.put_archive("/tmp", b"")

    def test_owners_and_what_may_not_be_written(self, engine: Engine, tmp_path: Path) -> None:
        file = tmp_path / "file"
        file.write_text("content\n")
        os.chown(file, 55, 66)
        mounts = ["-v", "mine:/mine", "-v", "theirs:/theirs:ro"]
        engine.docker("run", "-d", "--name", "closed", "--read-only", *mounts, "busybox", "sleep", "1000")
        engine.docker("cp", "-a", str(file), "closed:/mine/file")
        assert output(engine, "exec", "closed", "stat", "-c", "%u:%g", "/mine/file") == "55:66"
        for target, words in (("/theirs", "mounted volume is marked read-only"), ("/", "container rootfs is marked")):
            for state in (["start"], ["stop", "-t", "0"]):
                engine.docker(*state, "closed")
                result = engine.docker("cp", str(file), f"closed:{target}", check=False)
                assert (result.returncode, words in result.stderr) == (1, True), result.stderr

    def test_archives_and_exports_through_the_sdk(self, sdk: docker.DockerClient) -> None:
        container = sdk.containers.create("busybox", "true")
        stream, stat = container.get_archive("/etc/passwd")
        with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as tar:
            assert tar.getnames() == ["passwd"]
        assert (stat["name"], stat["mode"] & 0o777) == ("passwd", 0o644)
        with tarfile.open(fileobj=io.BytesIO(b"".join(container.export()))) as tar:
            assert "bin/busybox" in tar.getnames()


class TestEvents:
    def test_the_history_of_one_container(self, engine: Engine) -> None:
        start = f"{time.time():.6f}"
        engine.docker(
            "run", "--rm", "--name", "told", "--label", "story=1", "busybox", "sh", "-c", "exit 3", check=False
        )
        lines = output(
            engine, "events", "--since", start, "--until", f"{time.time() + 0.5:.6f}", "--filter", "type=container",
            "--filter", "label=story=1", "--format", "{{json .}}",
        ).splitlines()  # fmt: skip
        events = [json.loads(line) for line in lines]
        assert [event["Action"] for event in events] == ["create", "attach", "start", "die", "destroy"]
        die = events[3]
        assert die["Actor"]["Attributes"]["exitCode"] == "3"
        assert die["Actor"]["Attributes"]["name"] == "told"
        assert (die["status"], die["from"]) == ("die", "busybox")

    def test_a_follower_sees_what_happens(self, engine: Engine, sdk: docker.DockerClient) -> None:
        following = sdk.events(decode=True, filters={"type": "container", "event": ["create", "destroy"]})
        seen: list[str] = []

        def follow() -> None:
            for event in following:
                seen.append(event["Action"])
                if len(seen) == 2:
                    return

        thread = threading.Thread(target=follow)
        thread.start()
        time.sleep(0.3)
        engine.docker("run", "--rm", "busybox", "true")
        thread.join(10)
        following.close()
        assert seen == ["create", "destroy"]


class TestLogs:
    def test_following_ends_with_the_container(self, engine: Engine) -> None:
        engine.docker(
            "run", "-d", "--name", "counts", "busybox", "sh", "-c", "for i in 1 2 3; do echo $i; sleep 0.3; done"
        )
        assert output(engine, "logs", "-f", "counts") == "1\n2\n3"
        assert output(engine, "logs", "--tail", "1", "counts") == "3"
        stamped = output(engine, "logs", "-t", "counts").splitlines()
        assert len(stamped) == 3
        since = stamped[1].split()[0]
        assert output(engine, "logs", "--since", since, "counts") == "2\n3"


class TestErrors:
    def test_the_sdk_tells_missing_things_apart(self, sdk: docker.DockerClient) -> None:
        with pytest.raises(ImageNotFound):
            sdk.containers.create("nonexist:x")
        with pytest.raises(ImageNotFound):
            sdk.images.get("nonexist")
        with pytest.raises(NotFound):
            sdk.containers.get("nonexist")
        with pytest.raises(APIError) as refused:
            sdk.api.create_container("busybox", host_config={"Memory": 1})
        assert refused.value.status_code == 400

    def test_inspect_of_nothing_names_it(self, engine: Engine) -> None:
        result = engine.docker("inspect", "nosuchobject", check=False)
        assert result.returncode == 1
        assert "no such object: nosuchobject" in result.stderr.lower()

    def test_swarm_commands_are_answered(self, engine: Engine) -> None:
        result = engine.docker("service", "ls", check=False)
        assert "This node is not a swarm manager" in result.stderr
        assert output(engine, "plugin", "ls", "-q") == ""


class TestWait:
    def test_many_wait_for_one(self, engine: Engine) -> None:
        engine.docker("run", "-d", "--name", "awaited", "busybox", "sh", "-c", "sleep 2; exit 5")
        waiting = [engine.docker_popen("wait", "awaited", stdout=subprocess.PIPE) for _ in range(3)]
        assert {process.communicate(timeout=20)[0] for process in waiting} == {b"5\n"}

    def test_removal_is_waited_for(self, sdk: docker.DockerClient) -> None:
        container = sdk.containers.run("busybox", "sh -c 'sleep 1; exit 6'", detach=True, auto_remove=True)
        assert container.wait(condition="removed")["StatusCode"] == 6
        with pytest.raises(NotFound):
            sdk.containers.get(container.id)


class TestStats:
    def test_one_sample_and_a_stream(self, engine: Engine, sdk: docker.DockerClient) -> None:
        container = sdk.containers.run("busybox", "sleep 1000", detach=True)
        one = container.stats(stream=False)
        assert one["pids_stats"]["current"] >= 1
        stream = container.stats(decode=True)
        first, second = next(stream), next(stream)
        assert second["preread"] == first["read"]
        assert second["precpu_stats"]["cpu_usage"] == first["cpu_stats"]["cpu_usage"]
        assert container.short_id in output(engine, "stats", "--no-stream", "--format", "{{.ID}}")
