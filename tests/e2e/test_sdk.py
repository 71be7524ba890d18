"""The docker Python SDK across its surface."""

from __future__ import annotations

import io
import struct
import tarfile
import threading
import time
from collections.abc import Iterator

import docker
import pytest
from docker.errors import APIError, ContainerError, ImageNotFound, NotFound
from docker.types import EndpointConfig, Healthcheck, IPAMConfig, IPAMPool, LogConfig, Mount, Ulimit

from tests.lab.engine import Engine, eventually

pytestmark = pytest.mark.root


@pytest.fixture
def sdk(engine: Engine) -> Iterator[docker.DockerClient]:
    client = docker.DockerClient(base_url=engine.url, version="auto", timeout=30)
    yield client
    client.close()


def tar_of(**files: bytes) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o644
            tar.addfile(entry, io.BytesIO(content))
    return data.getvalue()


class TestClient:
    def test_ping_version_info_df(self, sdk: docker.DockerClient) -> None:
        assert sdk.ping() is True
        assert sdk.version()["ApiVersion"] == sdk.api.api_version
        info = sdk.info()
        assert (info["OSType"], info["Swarm"]["LocalNodeState"]) == ("linux", "inactive")
        assert {"ImageUsage", "ContainerUsage", "VolumeUsage", "BuildCacheUsage"} <= set(sdk.df())

    def test_a_login_that_no_registry_answers(self, sdk: docker.DockerClient) -> None:
        with pytest.raises(APIError) as refused:
            sdk.login("somebody", "secret", registry="127.0.0.1:1")
        assert refused.value.status_code == 500
        assert "secret" not in str(refused.value)


class TestContainers:
    def test_run_and_its_failures(self, sdk: docker.DockerClient) -> None:
        assert sdk.containers.run("busybox", "echo one", remove=True) == b"one\n"
        with pytest.raises(ContainerError) as failed:
            sdk.containers.run("busybox", ["sh", "-c", "echo why >&2; exit 3"], remove=True)
        assert (failed.value.exit_status, failed.value.stderr) == (3, b"why\n")
        with pytest.raises(APIError) as missing:
            sdk.containers.run("busybox", "nosuchcommand", remove=True)
        assert "executable file not found" in missing.value.explanation
        with pytest.raises(ImageNotFound):
            sdk.containers.create("nosuch:image")

    def test_what_is_asked_for_is_shown_and_done(self, sdk: docker.DockerClient) -> None:
        container = sdk.containers.create(
            "busybox", ["sh", "-c", "echo $A $(id -u) $(pwd) $(hostname); cat /data/x; ulimit -n; sleep 1000"],
            name="full", environment={"A": "b"}, user="7:8", working_dir="/tmp", hostname="here", labels={"l": "1"},
            mounts=[Mount("/data", None, type="volume"), Mount("/m", "", type="tmpfs", tmpfs_size=1 << 20)],
            mem_limit="32m", nano_cpus=500_000_000, pids_limit=50, cap_drop=["ALL"], read_only=True, init=True,
            ulimits=[Ulimit(name="nofile", soft=55, hard=66)],
            log_config=LogConfig(type="json-file", config={"tag": "t"}),
            restart_policy={"Name": "on-failure", "MaximumRetryCount": 2}, extra_hosts={"far": "10.0.0.9"}, tty=False,
            healthcheck=Healthcheck(test=["CMD", "true"], interval=200_000_000), stop_signal="SIGKILL",
            ports={"80/tcp": ("127.0.0.1", None), "81/udp": None},
        )  # fmt: skip
        assert container.put_archive("/data", tar_of(x=b"from outside\n"))
        container.start()
        eventually(lambda: container.logs().count(b"\n") == 3, what="three lines")
        assert container.logs() == b"b 7 /tmp here\nfrom outside\n55\n"
        eventually(lambda: container.reload() or container.health == "healthy", what="a healthy container")
        host = container.attrs["HostConfig"]
        assert (host["Memory"], host["NanoCpus"], host["PidsLimit"]) == (32 << 20, 500_000_000, 50)
        assert container.ports["80/tcp"][0]["HostIp"] == "127.0.0.1"
        assert container.labels == {"l": "1"}
        assert [one.name for one in sdk.containers.list(filters={"label": "l=1", "health": "healthy"})] == ["full"]
        assert container.top()["Titles"][0] == "UID"
        assert {"Path": "/data", "Kind": 1} in container.diff()
        assert sdk.api.port("full", 80)[0]["HostPort"] == container.ports["80/tcp"][0]["HostPort"]

    def test_a_life(self, sdk: docker.DockerClient) -> None:
        container = sdk.containers.run("busybox", ["sleep", "1000"], name="life", detach=True)
        container.pause()
        container.reload()
        assert container.status == "paused"
        container.unpause()
        container.rename("other")
        assert sdk.containers.get("other").id == container.id
        container.update(mem_limit="40m", memswap_limit="80m")
        container.reload()
        assert container.attrs["HostConfig"]["Memory"] == 40 << 20
        container.restart(timeout=0)
        container.kill("SIGKILL")
        assert container.wait()["StatusCode"] == 137
        with pytest.raises(APIError) as conflict:
            container.kill()
        assert conflict.value.status_code == 409
        image = container.commit(repository="made", tag="one", message="why", author="who", changes=["ENV C=d"])
        assert image.attrs["Config"]["Env"][-1] == "C=d"
        assert image.history()[0]["Comment"] == "why"
        container.remove(v=True)
        sdk.images.remove("made:one")
        with pytest.raises(NotFound):
            container.reload()

    def test_logs_as_they_come(self, sdk: docker.DockerClient) -> None:
        script = "echo a; echo b >&2; sleep 0.5; echo c"
        container = sdk.containers.run("busybox", ["sh", "-c", script], detach=True)
        assert b"".join(container.logs(stream=True, follow=True)) == b"a\nb\nc\n"
        assert container.logs(stdout=False) == b"b\n"
        assert container.logs(stderr=False, tail=1) == b"c\n"
        stamp = container.logs(timestamps=True, tail=1).split()[0]
        assert stamp.endswith(b"Z")
        assert container.logs(until=int(time.time()) - 3600) == b""

    def test_wait_conditions(self, sdk: docker.DockerClient) -> None:
        container = sdk.containers.create("busybox", ["sh", "-c", "sleep 0.5; exit 4"], auto_remove=True)
        answers: dict[str, int] = {}

        def wait(condition: str) -> None:
            answers[condition] = sdk.containers.get(container.id).wait(condition=condition)["StatusCode"]

        threads = [threading.Thread(target=wait, args=(name,)) for name in ("next-exit", "removed")]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        container.start()
        for thread in threads:
            thread.join(15)
        assert answers == {"next-exit": 4, "removed": 4}

    def test_statistics_as_they_come(self, sdk: docker.DockerClient) -> None:
        container = sdk.containers.run("busybox", ["sleep", "1000"], detach=True, mem_limit="32m")
        samples = container.stats(decode=True, stream=True)
        first, second = next(samples), next(samples)
        assert first["memory_stats"]["limit"] == 32 << 20
        assert second["precpu_stats"]["system_cpu_usage"] == first["cpu_stats"]["system_cpu_usage"]
        assert list(second["networks"]) == ["eth0"]

    # The SDK never closes the sockets of its execs.
    @pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
    def test_exec(self, sdk: docker.DockerClient) -> None:
        container = sdk.containers.run("busybox", ["sleep", "1000"], detach=True)
        result = container.exec_run("sh -c 'echo $X $PWD; exit 5'", environment={"X": "y"}, workdir="/tmp", user="3")
        assert (result.exit_code, result.output) == (5, b"y /tmp\n")
        assert not container.exec_run("sleep 1000", detach=True).output
        _, joined = container.exec_run("cat", stdin=True, socket=True)
        joined._sock.sendall(b"ping\n")
        head = joined._sock.recv(8)
        assert struct.unpack(">BxxxL", head) == (1, 5)
        assert joined._sock.recv(5) == b"ping\n"
        joined._sock.close()
        made = sdk.api.exec_create(container.id, ["sh", "-c", "stty size; sleep 0.5; stty size"], tty=True, stdin=True)
        stream = sdk.api.exec_start(made["Id"], tty=True, stream=True)
        time.sleep(0.2)
        sdk.api.exec_resize(made["Id"], height=33, width=44)
        assert b"".join(stream).split()[-2:] == [b"33", b"44"]
        assert sdk.api.exec_inspect(made["Id"])["ExitCode"] == 0
        with pytest.raises(APIError) as again:
            sdk.api.exec_start(made["Id"])
        assert again.value.status_code == 409
        assert sdk.api.exec_inspect(made["Id"])["ProcessConfig"]["entrypoint"] == "sh"

    def test_archives(self, sdk: docker.DockerClient) -> None:
        container = sdk.containers.create("busybox", "true")
        assert container.put_archive("/tmp", tar_of(one=b"1", two=b"22"))
        stream, status = container.get_archive("/tmp", encode_stream=True)
        assert status["name"] == "tmp"
        with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as tar:
            assert sorted(tar.getnames()) == ["tmp", "tmp/one", "tmp/two"]
        with pytest.raises(NotFound):
            container.get_archive("/nosuch")
        with pytest.raises(APIError) as wrong:
            container.put_archive("/etc/passwd", tar_of(x=b""))
        assert wrong.value.status_code == 400
        assert {"Path": "/tmp/one", "Kind": 1} in container.diff()

    def test_prune(self, sdk: docker.DockerClient) -> None:
        kept = sdk.containers.create("busybox", "true", labels={"keep": "1"})
        gone = sdk.containers.create("busybox", "true")
        assert sdk.containers.prune(filters={"label!": "keep"})["ContainersDeleted"] == [gone.id]
        assert [one.id for one in sdk.containers.list(all=True)] == [kept.id]


class TestImages:
    def test_list_tag_save_load_remove(self, sdk: docker.DockerClient) -> None:
        image = sdk.images.get("busybox")
        assert image.tag("copy", tag="two")
        assert [one.tags for one in sdk.images.list(name="copy")] == [sorted(sdk.images.get("copy:two").tags)]
        data = b"".join(sdk.images.get("copy:two").save(named="copy:two"))
        sdk.images.remove("copy:two")
        (loaded,) = sdk.images.load(data)
        assert loaded.id == image.id
        sdk.images.remove("copy:two")
        with pytest.raises(ImageNotFound):
            sdk.images.get("copy:two")

    def test_import_build_prune(self, sdk: docker.DockerClient) -> None:
        assert "sha256:" in sdk.api.import_image_from_data(tar_of(x=b"1"), repository="imported")
        image, log = sdk.images.build(
            fileobj=io.BytesIO(b"FROM busybox\nLABEL a=b\nRUN echo hi > /hi\n"), tag="built", rm=True
        )
        assert image.labels == {"a": "b"}
        assert any("Step 1/3" in line.get("stream", "") for line in log)
        assert sdk.containers.run("built", "cat /hi", remove=True) == b"hi\n"
        for name in ("imported", "built"):
            sdk.images.remove(name)
        assert "SpaceReclaimed" in sdk.images.prune()

    def test_pull_of_nothing(self, sdk: docker.DockerClient) -> None:
        with pytest.raises(APIError):
            sdk.images.pull("127.0.0.1:1/nosuch:tag")
        lines = list(sdk.api.push("127.0.0.1:1/nosuch", stream=True, decode=True))
        assert "does not exist locally" in lines[-1]["errorDetail"]["message"]


class TestNetworksAndVolumes:
    def test_networks(self, sdk: docker.DockerClient) -> None:
        ipam = IPAMConfig(pool_configs=[IPAMPool(subnet="10.66.0.0/24", gateway="10.66.0.1")])
        network = sdk.networks.create("own", driver="bridge", ipam=ipam, labels={"a": "b"}, check_duplicate=True)
        try:
            config = {"own": EndpointConfig(sdk.api.api_version, aliases=["other"], ipv4_address="10.66.0.9")}
            container = sdk.containers.run(
                "busybox", ["sleep", "1000"], network="own", networking_config=config, detach=True
            )
            container.reload()
            settings = container.attrs["NetworkSettings"]["Networks"]["own"]
            assert settings["IPAddress"] == "10.66.0.9"
            late = sdk.containers.run("busybox", ["sleep", "1000"], detach=True)
            network.connect(late, aliases=["late"])
            assert container.exec_run("nslookup late").exit_code == 0
            network.reload()
            assert {one.id for one in network.containers} == {container.id, late.id}
            network.disconnect(late)
            with pytest.raises(APIError):
                network.remove()
            container.remove(force=True)
            assert [one.name for one in sdk.networks.list(filters={"label": "a=b"})] == ["own"]
            assert sdk.networks.prune(filters={"label": "a=b"})["NetworksDeleted"] == ["own"]
        finally:
            for left in sdk.networks.list(names=["own"]):
                left.remove()

    def test_volumes(self, sdk: docker.DockerClient) -> None:
        volume = sdk.volumes.create("kept", labels={"a": "b"}, driver="local")
        assert sdk.containers.run("busybox", ["sh", "-c", "echo x > /v/x"], volumes=["kept:/v"], remove=True) == b""
        read = sdk.containers.run("busybox", "cat /v/x", volumes={"kept": {"bind": "/v", "mode": "ro"}}, remove=True)
        assert read == b"x\n"
        assert [one.name for one in sdk.volumes.list(filters={"label": "a=b"})] == ["kept"]
        holder = sdk.containers.create("busybox", volumes=["kept:/v"])
        with pytest.raises(APIError) as used:
            volume.remove()
        assert used.value.status_code == 409
        holder.remove()
        assert sdk.volumes.prune(filters={"all": "true"})["VolumesDeleted"] == ["kept"]
        with pytest.raises(NotFound):
            sdk.volumes.get("kept")


class TestEvents:
    def test_past_and_present(self, sdk: docker.DockerClient) -> None:
        since = time.time() - 0.001
        container = sdk.containers.run("busybox", ["sleep", "1000"], detach=True, labels={"mine": "1"})
        container.remove(force=True)
        events = sdk.events(
            since=since, until=time.time() + 0.2, filters={"type": "container", "label": "mine=1"}, decode=True
        )
        assert [event["Action"] for event in events] == ["create", "start", "kill", "die", "destroy"]


@pytest.mark.parametrize("resource", ["services", "nodes", "secrets", "configs"])
def test_swarm_is_not_there(sdk: docker.DockerClient, resource: str) -> None:
    with pytest.raises(APIError) as refused:
        getattr(sdk, resource).list()
    assert refused.value.status_code == 503
    assert "not a swarm manager" in refused.value.explanation
