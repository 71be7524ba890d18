"""The main job with the real docker CLI, command by command."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.lab.engine import Engine, eventually

pytestmark = pytest.mark.root


def output(engine: Engine, *arguments: str, **options: object) -> str:
    return engine.docker(*arguments, **options).stdout.strip()  # type: ignore[arg-type]


def run(engine: Engine, *arguments: str) -> str:
    return output(engine, "run", "--rm", *arguments)


def test_version_and_info_name_the_engine(engine: Engine) -> None:
    version = json.loads(output(engine, "version", "--format", "{{json .}}"))
    assert version["Server"]["ApiVersion"] >= "1.50"
    info = json.loads(output(engine, "info", "--format", "{{json .}}"))
    assert info["Driver"] == "overlay2"
    assert info["NCPU"] == len(os.sched_getaffinity(0))
    assert info["Swarm"]["LocalNodeState"] == "inactive"


class TestRun:
    def test_prints_and_exits(self, engine: Engine) -> None:
        assert run(engine, "busybox", "echo", "hello") == "hello"

    def test_separates_stdout_and_stderr(self, engine: Engine) -> None:
        result = engine.docker("run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2")
        assert (result.stdout, result.stderr) == ("out\n", "err\n")

    def test_passes_stdin(self, engine: Engine) -> None:
        assert output(engine, "run", "--rm", "-i", "busybox", "wc", "-c", stdin="x" * 100_000) == "100000"

    @pytest.mark.parametrize(
        ("command", "code"),
        [
            (["sh", "-c", "exit 7"], 7),
            (["nosuchcommand"], 127),
            (["/etc/passwd"], 126),
            (["/nosuch/path"], 127),
            (["/tmp"], 126),
            (["sh", "-c", "kill -9 $$"], 137),
            (["sh", "-c", "kill -15 $$"], 143),
        ],
    )
    def test_exit_code(self, engine: Engine, command: list[str], code: int) -> None:
        # The shell is not process 1, whose unhandled signals the kernel drops.
        words = ["--init", "busybox", *command] if "kill" in command[-1] else ["busybox", *command]
        assert engine.docker("run", "--rm", *words, check=False).returncode == code

    def test_daemon_refusal_is_125(self, engine: Engine) -> None:
        assert engine.docker("run", "--rm", "--memory", "1k", "busybox", "true", check=False).returncode == 125

    def test_environment_directory_user_entrypoint_hostname(self, engine: Engine) -> None:
        assert run(engine, "-e", "A=b c", "busybox", "sh", "-c", "echo $A") == "b c"
        assert run(engine, "-w", "/var/new", "busybox", "pwd") == "/var/new"
        assert run(engine, "-u", "nobody", "busybox", "id", "-u") == "65534"
        assert run(engine, "-u", "1234:5678", "busybox", "sh", "-c", "id -u; id -g").split() == ["1234", "5678"]
        assert run(engine, "--entrypoint", "echo", "busybox", "from", "entrypoint") == "from entrypoint"
        assert run(engine, "--hostname", "harbour", "busybox", "hostname") == "harbour"

    def test_unknown_user_is_refused(self, engine: Engine) -> None:
        result = engine.docker("run", "--rm", "-u", "nosuch", "busybox", "true", check=False)
        assert result.returncode != 0
        assert "unable to find user nosuch: no matching entries in passwd file" in result.stderr

    def test_rm_leaves_nothing(self, engine: Engine) -> None:
        run(engine, "--name", "gone", "busybox", "true")
        assert output(engine, "ps", "-aq", "--filter", "name=gone") == ""

    def test_detached_goes_on(self, engine: Engine) -> None:
        container = output(engine, "run", "-d", "--name", "back", "busybox", "sleep", "1000")
        assert re.fullmatch(r"[0-9a-f]{64}", container)
        assert output(engine, "inspect", "-f", "{{.State.Running}}", "back") == "true"

    def test_terminal_with_size(self, engine: Engine) -> None:
        master, slave = pty.openpty()
        import fcntl
        import struct
        import termios

        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 99, 0, 0))
        process = subprocess.Popen(
            ["docker", "run", "--rm", "-it", "busybox", "sh"],
            env=engine.environment, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
        )  # fmt: skip
        os.close(slave)
        seen = read_until(master, "# ")
        time.sleep(0.5)  # the CLI sends the size after the start
        os.write(master, b"stty size; exit 3\n")
        seen += read_until(master, "33 99")
        assert "33 99" in seen
        assert process.wait(10) == 3
        os.close(master)


def read_until(fd: int, text: str, timeout_s: float = 10) -> str:
    seen = ""
    deadline = time.monotonic() + timeout_s
    while text not in seen:
        assert time.monotonic() < deadline, f"{text!r} not seen in {seen!r}"
        if select.select([fd], [], [], 0.2)[0]:
            seen += os.read(fd, 4096).decode()
    return seen


class TestStorage:
    def test_bind_mount(self, engine: Engine, tmp_path: Path) -> None:
        run(engine, "-v", f"{tmp_path}:/host", "busybox", "sh", "-c", "echo written > /host/file")
        assert (tmp_path / "file").read_text() == "written\n"
        result = engine.docker("run", "--rm", "-v", f"{tmp_path}:/host:ro", "busybox", "touch", "/host/x", check=False)
        assert "Read-only file system" in result.stderr

    def test_bind_makes_a_missing_directory_and_mount_does_not(self, engine: Engine, tmp_path: Path) -> None:
        run(engine, "-v", f"{tmp_path}/new:/new", "busybox", "true")
        assert (tmp_path / "new").is_dir()
        result = engine.docker(
            "run", "--rm", "--mount", f"type=bind,source={tmp_path}/absent,target=/x", "busybox", "true", check=False
        )
        assert result.returncode == 125
        assert f"bind source path does not exist: {tmp_path}/absent" in result.stderr

    def test_named_volume_outlives_containers(self, engine: Engine) -> None:
        engine.docker("volume", "create", "--label", "a=b", "keep")
        run(engine, "-v", "keep:/data", "busybox", "sh", "-c", "echo kept > /data/file")
        assert run(engine, "-v", "keep:/data", "busybox", "cat", "/data/file") == "kept"
        assert output(engine, "volume", "ls", "-q", "--filter", "label=a=b") == "keep"
        assert json.loads(output(engine, "volume", "inspect", "keep"))[0]["Labels"] == {"a": "b"}
        engine.docker("create", "--name", "holder", "-v", "keep:/data", "busybox")
        assert "volume is in use" in engine.docker("volume", "rm", "keep", check=False).stderr
        engine.docker("rm", "holder")
        engine.docker("volume", "rm", "keep")
        assert "no such volume" in engine.docker("volume", "inspect", "keep", check=False).stderr.lower()

    def test_volume_over_image_data_starts_with_a_copy(self, engine: Engine) -> None:
        assert "passwd" in run(engine, "-v", "copied:/etc", "busybox", "ls", "/etc")
        engine.docker("volume", "rm", "copied")

    def test_anonymous_volumes_go_with_rm_v(self, engine: Engine) -> None:
        before = set(output(engine, "volume", "ls", "-q").split())
        engine.docker("run", "-d", "--name", "anon", "-v", "/data", "busybox", "sleep", "1000")
        assert len(set(output(engine, "volume", "ls", "-q").split()) - before) == 1
        engine.docker("rm", "-f", "-v", "anon")
        assert set(output(engine, "volume", "ls", "-q").split()) == before

    def test_tmpfs_and_read_only_root(self, engine: Engine) -> None:
        assert "tmpfs" in run(engine, "--tmpfs", "/scratch:size=1m", "busybox", "grep", "/scratch", "/proc/mounts")
        result = engine.docker("run", "--rm", "--read-only", "busybox", "touch", "/x", check=False)
        assert "Read-only file system" in result.stderr


class TestNetwork:
    def test_none_has_loopback_only(self, engine: Engine) -> None:
        assert run(engine, "--network", "none", "busybox", "ls", "/sys/class/net").split() == ["lo"]

    def test_host_sees_the_hosts_interfaces(self, engine: Engine) -> None:
        links = engine.inside("ip", "-o", "link").stdout
        assert run(engine, "--network", "host", "busybox", "ip", "-o", "link").count("\n") == links.strip().count("\n")

    def test_bridge_gives_an_address(self, engine: Engine) -> None:
        assert "172.17.0." in run(engine, "busybox", "ip", "-4", "addr", "show", "eth0")

    def test_container_shares(self, engine: Engine) -> None:
        engine.docker("run", "-d", "--name", "owner", "busybox", "sleep", "1000")
        own = output(engine, "exec", "owner", "cat", "/sys/class/net/eth0/address")
        assert run(engine, "--network", "container:owner", "busybox", "cat", "/sys/class/net/eth0/address") == own

    def test_sharing_with_nobody_is_refused_and_leaves_nothing(self, engine: Engine) -> None:
        result = engine.docker("run", "--rm", "--network", "container:nosuch", "busybox", "true", check=False)
        assert result.returncode == 125
        assert "No such container: nosuch" in result.stderr
        assert output(engine, "ps", "-aq") == ""

    def test_published_port_reaches_the_container(self, engine: Engine, page: Path) -> None:
        engine.docker(
            "run", "-d", "--name", "web", "-p", "18080:80", "-v", f"{page}:/www:ro", "busybox",
            "httpd", "-f", "-h", "/www",
        )  # fmt: skip
        fetched = eventually(
            lambda: engine.inside("curl", "-sf", "http://127.0.0.1:18080/", check=False).stdout, 5, "the page"
        )
        assert "it works" in fetched
        assert output(engine, "port", "web") == "80/tcp -> 0.0.0.0:18080\n80/tcp -> [::]:18080" or "18080" in output(
            engine, "port", "web"
        )
        taken = engine.docker("run", "-d", "-p", "18080:80", "busybox", "sleep", "9", check=False)
        assert taken.returncode == 125
        assert "port is already allocated" in taken.stderr
        engine.docker("rm", "-f", "web")
        assert engine.inside("curl", "-sf", "http://127.0.0.1:18080/", check=False).returncode != 0

    def test_networks_can_be_listed_and_inspected(self, engine: Engine) -> None:
        assert set(output(engine, "network", "ls", "--format", "{{.Name}}").split()) >= {"bridge", "host", "none"}
        bridge = json.loads(output(engine, "network", "inspect", "bridge"))[0]
        assert bridge["IPAM"]["Config"][0]["Subnet"] == "172.17.0.0/16"

    def test_names_resolve_on_a_network_of_ones_own(self, engine: Engine) -> None:
        engine.docker("network", "create", "lab")
        try:
            engine.docker("run", "-d", "--name", "alpha", "--network", "lab", "busybox", "sleep", "1000")
            found = run(engine, "--network", "lab", "busybox", "nslookup", "alpha")
            address = output(engine, "inspect", "-f", '{{(index .NetworkSettings.Networks "lab").IPAddress}}', "alpha")
            assert address in found
            assert "Server:\t\t127.0.0.11" in found
        finally:
            engine.docker("rm", "-f", "alpha")
            engine.docker("network", "rm", "lab")


class TestLimits:
    def test_memory_cpu_and_pids(self, engine: Engine) -> None:
        engine.docker(
            "run", "-d", "--name", "small", "--memory", "64m", "--cpus", "0.5", "--pids-limit", "50", "busybox",
            "sleep", "1000",
        )  # fmt: skip
        host = json.loads(output(engine, "inspect", "small"))[0]["HostConfig"]
        assert (host["Memory"], host["NanoCpus"], host["PidsLimit"]) == (64 << 20, 500_000_000, 50)
        pid = output(engine, "inspect", "-f", "{{.State.Pid}}", "small")
        places = {
            line.split(":")[1]: line.split(":")[2] for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()
        }
        if "memory" in places:
            limit = Path(f"/sys/fs/cgroup/memory{places['memory']}/memory.limit_in_bytes").read_text()
            quota = Path(f"/sys/fs/cgroup/cpu{places['cpu']}/cpu.cfs_quota_us").read_text()
            pids = Path(f"/sys/fs/cgroup/pids{places['pids']}/pids.max").read_text()
            assert (int(limit), int(quota), int(pids)) == (64 << 20, 50_000, 50)

    def test_out_of_memory_is_told(self, engine: Engine) -> None:
        result = engine.docker(
            "run", "--name", "hungry", "--memory", "16m", "--memory-swap", "16m", "busybox", "sh", "-c",
            "tail /dev/zero", check=False,
        )  # fmt: skip
        assert result.returncode == 137
        assert output(engine, "inspect", "-f", "{{.State.OOMKilled}}", "hungry") == "true"

    def test_capabilities_and_privileged(self, engine: Engine) -> None:
        def effective(*flags: str) -> int:
            return int(run(engine, *flags, "busybox", "grep", "CapEff", "/proc/self/status").split()[1], 16)

        default = effective()
        assert default == 0xA80425FB
        assert effective("--cap-drop", "ALL") == 0
        assert effective("--cap-drop", "ALL", "--cap-add", "NET_ADMIN") == 1 << 12
        assert effective("--privileged") & (1 << 21)
        assert (
            run(
                engine,
                "--privileged",
                "busybox",
                "sh",
                "-c",
                "mount -t tmpfs x /tmp && echo ok",
            )
            == "ok"
        )

    def test_init_reaps(self, engine: Engine) -> None:
        assert "docker-init" in run(engine, "--init", "busybox", "cat", "/proc/1/cmdline")


class TestLife:
    def test_ps_filters_and_formats(self, engine: Engine) -> None:
        engine.docker("run", "-d", "--name", "one", "--label", "team=red", "busybox", "sleep", "1000")
        engine.docker("run", "--name", "two", "busybox", "false", check=False)
        assert output(engine, "ps", "--format", "{{.Names}}") == "one"
        assert set(output(engine, "ps", "-a", "--format", "{{.Names}}").split()) == {"one", "two"}
        assert output(engine, "ps", "-q", "--no-trunc", "--filter", "label=team=red") != ""
        assert output(engine, "ps", "-a", "--filter", "exited=1", "--format", "{{.Names}}") == "two"
        assert output(engine, "ps", "-a", "--filter", "status=exited", "--format", "{{.Names}}") == "two"
        assert output(engine, "ps", "-a", "--filter", "ancestor=busybox", "--format", "{{.Names}}").count("\n") == 1
        assert output(engine, "ps", "--format", "{{.Status}}").startswith("Up ")
        assert output(engine, "ps", "-a", "--filter", "name=two", "--format", "{{.Status}}").startswith("Exited (1) ")
        assert "invalid filter" in engine.docker("ps", "--filter", "nosuch=1", check=False).stderr

    def test_ps_of_what_never_ran_and_of_an_image_that_was_renamed(self, engine: Engine) -> None:
        engine.docker("tag", "busybox:latest", "renamed:one")
        engine.docker("create", "--name", "one", "renamed:one", "true")
        assert output(engine, "ps", "-a", "--format", "{{.Image}}") == "renamed:one"
        size = output(engine, "ps", "-as", "--format", "{{.Size}}")
        assert re.fullmatch(r"0B \(virtual [1-9][\d.]*MB\)", size), size
        engine.docker("rmi", "-f", "renamed:one")
        image = output(engine, "inspect", "-f", "{{.Image}}", "one").removeprefix("sha256:")[:12]
        assert output(engine, "ps", "-a", "--format", "{{.Image}}") == image
        engine.docker("tag", "busybox:latest", "renamed:one")
        assert output(engine, "ps", "-a", "--format", "{{.Image}}") == "renamed:one"

    def test_logs(self, engine: Engine) -> None:
        engine.docker("run", "--name", "talk", "busybox", "sh", "-c", "for i in 1 2 3; do echo $i; done; echo e >&2")
        assert output(engine, "logs", "talk") == "1\n2\n3"
        assert engine.docker("logs", "talk").stderr == "e\n"
        assert output(engine, "logs", "--tail", "1", "talk") in ("3", "")
        stamped = output(engine, "logs", "-t", "talk").splitlines()
        assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z \d", line) for line in stamped)
        assert output(engine, "logs", "--since", "2999-01-01T00:00:00Z", "talk") == ""

    def test_logs_follow_until_the_end(self, engine: Engine) -> None:
        engine.docker(
            "run", "-d", "--name", "ticker", "busybox", "sh", "-c", "for i in 1 2 3 4; do echo $i; sleep .2; done"
        )
        assert output(engine, "logs", "-f", "ticker") == "1\n2\n3\n4"

    def test_log_file_is_where_inspect_says(self, engine: Engine) -> None:
        engine.docker("run", "--name", "scribe", "busybox", "echo", "line")
        path = Path(output(engine, "inspect", "-f", "{{.LogPath}}", "scribe"))
        record = json.loads(path.read_text())
        assert (record["log"], record["stream"]) == ("line\n", "stdout")

    def test_attach(self, engine: Engine) -> None:
        engine.docker("run", "-d", "-i", "--name", "echo", "busybox", "cat")
        with engine.docker_popen("attach", "echo", stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(b"there and back\n")
            process.stdin.flush()
            assert process.stdout.readline() == b"there and back\n"
            process.kill()

    def test_exec(self, engine: Engine) -> None:
        engine.docker("run", "-d", "--name", "box", "-e", "A=1", "busybox", "sleep", "1000")
        assert output(engine, "exec", "box", "sh", "-c", "echo $A") == "1"
        assert output(engine, "exec", "-e", "B=2", "-w", "/tmp", "box", "sh", "-c", "echo $B; pwd").split() == [
            "2",
            "/tmp",
        ]
        assert output(engine, "exec", "-u", "nobody", "box", "id", "-un") == "nobody"
        assert output(engine, "exec", "-i", "box", "cat", stdin="in") == "in"
        assert engine.docker("exec", "box", "sh", "-c", "exit 5", check=False).returncode == 5
        assert engine.docker("exec", "box", "nosuch", check=False).returncode == 127
        engine.docker("exec", "-d", "box", "touch", "/tmp/made")
        eventually(lambda: engine.docker("exec", "box", "test", "-e", "/tmp/made", check=False).returncode == 0)
        stopped = engine.docker("stop", "-t", "0", "box")
        assert stopped.returncode == 0
        assert "is not running" in engine.docker("exec", "box", "true", check=False).stderr

    def test_stop_is_graceful_then_not(self, engine: Engine) -> None:
        engine.docker(
            "run", "-d", "--name", "kind", "busybox", "sh", "-c", "trap 'exit 9' TERM; while :; do sleep .1; done"
        )
        engine.docker("stop", "kind")
        assert output(engine, "inspect", "-f", "{{.State.ExitCode}}", "kind") == "9"
        engine.docker("run", "-d", "--name", "deaf", "busybox", "sh", "-c", "trap '' TERM; while :; do sleep .1; done")
        begin = time.monotonic()
        engine.docker("stop", "-t", "1", "deaf")
        assert time.monotonic() - begin < 8
        assert output(engine, "inspect", "-f", "{{.State.ExitCode}}", "deaf") == "137"

    def test_kill_pause_restart_rename_wait_top_stats(self, engine: Engine) -> None:
        engine.docker("run", "-d", "--name", "busy", "busybox", "sleep", "1000")
        engine.docker("pause", "busy")
        assert output(engine, "ps", "--format", "{{.Status}}").endswith("(Paused)")
        assert "is already paused" in engine.docker("pause", "busy", check=False).stderr
        engine.docker("unpause", "busy")
        started = output(engine, "inspect", "-f", "{{.State.StartedAt}}", "busy")
        engine.docker("restart", "-t", "0", "busy")
        assert output(engine, "inspect", "-f", "{{.State.StartedAt}}", "busy") > started
        engine.docker("rename", "busy", "lazy")
        assert "sleep 1000" in output(engine, "top", "lazy")
        stats = json.loads(output(engine, "stats", "--no-stream", "--format", "{{json .}}", "lazy"))
        assert stats["Name"] == "lazy"
        assert stats["MemUsage"].split()[0] != "0B"
        waiting = engine.docker_popen("wait", "lazy", stdout=subprocess.PIPE)
        time.sleep(0.3)
        engine.docker("kill", "-s", "KILL", "lazy")
        assert waiting.communicate(timeout=10)[0] == b"137\n"
        assert "is not running" in engine.docker("kill", "lazy", check=False).stderr
        assert "Invalid signal" in engine.docker("kill", "-s", "NOSUCH", "lazy", check=False).stderr

    def test_restart_policies(self, engine: Engine) -> None:
        engine.docker("run", "-d", "--name", "again", "--restart", "on-failure:2", "busybox", "false")
        eventually(
            lambda: output(engine, "inspect", "-f", "{{.RestartCount}} {{.State.Status}}", "again") == "2 exited", 10
        )
        engine.docker("run", "-d", "--name", "ever", "--restart", "always", "busybox", "sleep", "1000")
        first = int(output(engine, "inspect", "-f", "{{.State.Pid}}", "ever"))
        os.kill(first, signal.SIGKILL)
        eventually(lambda: int(output(engine, "inspect", "-f", "{{.State.Pid}}", "ever")) not in (0, first), 10)

    def test_removing_a_running_container_is_refused(self, engine: Engine) -> None:
        engine.docker("run", "-d", "--name", "runs", "busybox", "sleep", "1000")
        refused = engine.docker("rm", "runs", check=False)
        assert refused.returncode == 1
        assert "container is running: stop the container before removing or force remove" in refused.stderr
        engine.docker("rm", "-f", "runs")
        assert "No such container: runs" in engine.docker("inspect", "--type", "container", "runs", check=False).stderr

    def test_name_conflict(self, engine: Engine) -> None:
        engine.docker("create", "--name", "unique", "busybox")
        taken = engine.docker("create", "--name", "unique", "busybox", check=False)
        assert 'The container name "/unique" is already in use by container' in taken.stderr

    def test_events_live_and_replayed(self, engine: Engine) -> None:
        begin = time.time()
        live = engine.docker_popen(
            "events", "--filter", "container=told", "--format", "{{.Action}}", stdout=subprocess.PIPE
        )
        time.sleep(0.5)
        engine.docker("run", "--name", "told", "busybox", "true")
        engine.docker("rm", "told")
        time.sleep(0.5)
        live.send_signal(signal.SIGINT)
        seen = live.communicate(timeout=10)[0].decode().split()
        replay = output(
            engine, "events", "--since", f"{begin:.3f}", "--until", f"{time.time():.3f}", "--filter", "container=told",
            "--format", "{{.Action}}",
        ).split()  # fmt: skip
        assert [one for one in seen if one != "connect"] == [one for one in replay if one != "connect"]
        wanted = ["create", "attach", "start", "die", "destroy"]
        assert [one for one in replay if one in wanted] == wanted


class TestImages:
    def test_list_tag_remove(self, engine: Engine) -> None:
        engine.docker("tag", "busybox:latest", "mine/box:1")
        assert "mine/box:1" in output(engine, "images", "--format", "{{.Repository}}:{{.Tag}}")
        assert "Untagged: mine/box:1" in output(engine, "rmi", "mine/box:1")
        assert "No such image" in engine.docker("rmi", "mine/box:1", check=False).stderr

    def test_save_and_load(self, engine: Engine, tmp_path: Path) -> None:
        engine.docker("tag", "busybox:latest", "saved:1")
        engine.docker("save", "-o", str(tmp_path / "image.tar"), "saved:1")
        engine.docker("rmi", "saved:1")
        assert "Loaded image: saved:1" in output(engine, "load", "-i", str(tmp_path / "image.tar"))
        assert run(engine, "saved:1", "echo", "back") == "back"
        engine.docker("rmi", "saved:1")

    def test_unknown_image_and_bad_reference(self, engine: Engine) -> None:
        assert (
            "No such image: nosuch:latest" in engine.docker("create", "--pull", "never", "nosuch", check=False).stderr
        )
        assert "invalid reference format" in engine.docker("create", "Bad..//Name", check=False).stderr


def test_a_port_that_the_host_listens_on_is_an_error_when_asked_for_and_avoided_when_not(engine: Engine) -> None:
    engine.docker("run", "-d", "--name", "first", "-p", "80", "busybox", "sleep", "600")
    given = int(engine.docker("port", "first", "80").stdout.split()[0].rpartition(":")[2])
    taken = range(given + 1, given + 4)
    held = f"[socket.create_server(('', port)) for port in {list(taken)}]"
    command = [*engine.netns.enter, sys.executable, "-c", f"import socket; h = {held}; print(flush=True); input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as listener:
        assert listener.stdout is not None
        listener.stdout.readline()
        refused = engine.docker("run", "-d", "-p", f"{taken[0]}:80", "busybox", "sleep", "600", check=False)
        assert refused.returncode == 125
        assert f"listen tcp4 0.0.0.0:{taken[0]}: bind: address already in use" in refused.stderr
        for name in ("second", "third"):
            engine.docker("run", "-d", "--name", name, "-p", "80", "busybox", "sleep", "600")
            port = int(engine.docker("port", name, "80").stdout.split()[0].rpartition(":")[2])
            assert port not in taken
        listener.communicate(b"\n")
