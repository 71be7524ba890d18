"""davit-runc as a program."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from services.executor.runtime import cgroups
from tests.integration.runtime.conftest import Runc, spec_of

pytestmark = pytest.mark.root


def test_run_passes_streams_and_exit_code(runc: Runc) -> None:
    bundle = runc.bundle(spec_of("sh", "-c", "read x; echo out $x; echo err >&2; exit 9"))
    done = subprocess.run(
        [*runc.command(), "run", "-b", str(bundle), runc.new_id()],
        input="in\n",
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (9, "out in\n", "err\n")


def test_life_cycle(runc: Runc, tmp_path: Path) -> None:
    name, pid_file = runc.new_id(), tmp_path / "pid"
    bundle = runc.bundle(spec_of("sleep", "100", annotations={"a": "b"}))
    with open(os.devnull, "wb") as null:
        created = subprocess.run(
            [*runc.command(), "create", "-b", str(bundle), "--pid-file", str(pid_file), name],
            stdout=null,
            stderr=null,
            timeout=30,
            check=False,
        )
    assert created.returncode == 0
    state = json.loads(runc("state", name).stdout)
    assert (state["id"], state["status"], state["bundle"]) == (name, "created", str(bundle))
    assert state["annotations"] == {"a": "b"}
    assert int(pid_file.read_text()) == state["pid"]
    assert Path(f"/proc/{state['pid']}/cmdline").read_bytes().split(b"\0")[0] != b"sleep"
    assert runc("start", name).returncode == 0
    assert Path(f"/proc/{state['pid']}/cmdline").read_bytes() == b"sleep\x00100\x00"
    assert "cannot start an already running container" in runc("start", name).stderr
    assert "that is not stopped: running" in runc("delete", name).stderr
    assert runc("pause", name).returncode == 0
    assert json.loads(runc("state", name).stdout)["status"] == "paused"
    assert runc("resume", name).returncode == 0
    assert runc("kill", name, "KILL").returncode == 0
    deadline = time.monotonic() + 5
    while json.loads(runc("state", name).stdout)["status"] != "stopped":
        assert time.monotonic() < deadline
    assert json.loads(runc("list", "-f", "json").stdout)[0]["id"] == name
    assert runc("delete", name).returncode == 0
    assert runc("state", name).stderr.endswith('msg="container does not exist"\n')


def test_exec(runc: Runc) -> None:
    name = runc.detached("sleep", "100")
    done = runc(
        "exec", "-e", "A=b", "--cwd", "/tmp", "-u", "33:34", "-g", "4", name, "sh", "-c", "echo $A $PWD $(id); exit 3"
    )
    assert (done.returncode, done.stdout) == (3, "b /tmp uid=33(web) gid=34(web) groups=4(log)\n")
    missing = runc("exec", name, "nosuch")
    assert missing.returncode == 255
    assert (
        'exec failed: unable to start container process: exec: \\"nosuch\\": executable file not found'
        in missing.stderr
    )
    process = {"args": ["pwd"], "cwd": "/home", "user": {"uid": 0, "gid": 0}}
    path = runc.directory / "process.json"
    path.write_text(json.dumps(process))
    assert runc("exec", "-p", str(path), name).returncode == 255  # no PATH, so no pwd
    path.write_text(json.dumps({**process, "env": ["PATH=/bin"]}))
    assert runc("exec", "-p", str(path), name).stdout == "/home\n"


def test_errors(runc: Runc, tmp_path: Path) -> None:
    log = tmp_path / "log"
    failed = runc(
        "--log", str(log), "--log-format", "json", "run", "-b", str(runc.bundle(spec_of("nosuch"))), runc.new_id()
    )
    assert failed.returncode == 1
    record = json.loads(log.read_text())
    assert record["level"] == "error"
    assert record["msg"] == (
        'davit-runc run failed: unable to start container process: exec: "nosuch": executable file not found in $PATH'
    )
    assert failed.stderr == record["msg"] + "\n"
    assert "JSON specification file config.json not found" in runc("run", "-b", str(tmp_path), "x").stderr
    assert runc("checkpoint", "x").returncode == 1
    assert runc("run").returncode == 1
    assert runc("delete", "--force", "nosuch").returncode == 0
    assert "invalid container ID format" in runc("state", "../x").stderr
    assert not (runc.directory / "root").exists() or not os.listdir(runc.directory / "root")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"linux": {"personality": {"domain": "SVR4"}}}, "linux.personality.domain"),
        ({"linux": {"intelRdt": {"closID": "x"}}}, "linux.intelRdt"),
        ({"hooks": {"prestart": [{"path": "relative"}]}}, "hooks.prestart[0].path"),
        ({"linux": {"rootfsPropagation": "sideways"}}, "linux.rootfsPropagation"),
        ({"linux": {"sysctl": {"kernel.panic": "1"}}}, "linux.sysctl[kernel.panic]"),
        ({"ociVersion": "9"}, "ociVersion"),
        ({"process": {"oomScoreAdj": 5000}}, "process.oomScoreAdj"),
        ({"process": {"capabilities": {"bounding": [1]}}}, "process.capabilities.bounding"),
        ({"process": {"env": ["NAME"]}}, "process.env"),
        ({"linux": {"netDevices": {"a/b": {}}}}, "linux.netDevices"),
        ({"mounts": [{"destination": "/x", "type": "tmpfs", "options": ["idmap"]}]}, "mounts[0].options"),
        ({"linux": {"memoryPolicy": {"mode": "BIND"}}}, "linux.memoryPolicy.mode"),
        ({"process": {"scheduler": {"policy": "SCHED_NICE"}}}, "process.scheduler.policy"),
        ({"process": {"ioPriority": {"class": "X"}}}, "process.ioPriority.class"),
        ({"process": {"rlimits": [{"type": "RLIMIT_X", "soft": 1, "hard": 1}]}}, "process.rlimits[0].type"),
        ({"process": {"cwd": "relative"}}, "process.cwd"),
        ({"mounts": [{"destination": "/x", "type": "bind"}]}, "mounts[0].source"),
        ({"linux": {"devices": [{"path": "/dev/x", "type": "z"}]}}, "linux.devices[0].type"),
    ],
)
def test_what_cannot_be_done_names_the_field(runc: Runc, change: dict[str, object], field: str) -> None:
    spec = spec_of("true")
    for key, value in change.items():
        spec[key] = {**spec[key], **value} if isinstance(value, dict) and isinstance(spec.get(key), dict) else value
    failed = runc.run(spec=spec)
    assert failed.returncode == 1
    assert field in failed.stderr
    assert not cgroups.detect().open(f"/davit/{runc.ids[-1]}").exists()


def test_hooks_see_the_state_in_order(runc: Runc, tmp_path: Path) -> None:
    script, trace = tmp_path / "hook", tmp_path / "trace"
    script.write_text(f'#!/bin/sh\necho "$1 $(cat)" >> {trace}\n')
    script.chmod(0o755)
    spec = spec_of("true")
    spec["hooks"] = {
        kind: [{"path": str(script), "args": ["hook", kind]}]
        for kind in ("prestart", "createRuntime", "createContainer", "poststart", "poststop")
    }
    done = runc.run(spec=spec)
    assert (done.returncode, done.stderr) == (0, "")
    seen = [line.split(" ", 1) for line in trace.read_text().splitlines()]
    assert [kind for kind, _ in seen] == list(spec["hooks"])
    states = [json.loads(state) for _, state in seen]
    assert {state["id"] for state in states} == {runc.ids[-1]}
    assert states[0]["status"] == "creating"
    assert states[-1]["status"] == "stopped"
    assert len({state["pid"] for state in states[:3]}) == 1


def test_failing_hook_undoes_everything(runc: Runc) -> None:
    spec = spec_of("true")
    spec["hooks"] = {"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "30"], "timeout": 1}]}
    started = time.monotonic()
    failed = runc.run(spec=spec)
    assert failed.returncode == 1
    assert "ran past specified timeout" in failed.stderr
    assert time.monotonic() - started < 10
    assert not cgroups.detect().open(f"/davit/{runc.ids[-1]}").exists()


def test_user_namespace(runc: Runc) -> None:
    spec = spec_of(
        "sh", "-c", "cat /proc/self/uid_map; id -u; echo x > /tmp/f; ls -ln /tmp/f; touch /dev/shm/y && echo shm"
    )
    spec["linux"]["namespaces"].append({"type": "user"})
    maps = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    spec["linux"] |= {"uidMappings": maps, "gidMappings": maps}
    spec["mounts"].append({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777"]})
    done = runc.run(spec=spec)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["0", "100000", "65536"]
    assert lines[1] == "0"
    assert lines[-1] == "shm"


def test_time_namespace(runc: Runc) -> None:
    spec = spec_of("cat", "/proc/uptime")
    spec["linux"]["namespaces"].append({"type": "time"})
    spec["linux"]["timeOffsets"] = {"boottime": {"secs": 1000000, "nanosecs": 0}}
    done = runc.run(spec=spec)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[0]) > 1000000


def test_join_namespaces_of_another(runc: Runc) -> None:
    name = runc.detached("sleep", "100")
    pid = json.loads(runc("state", name).stdout)["pid"]
    spec = spec_of("sh", "-c", "hostname; ps | grep -v ps | grep sleep")
    del spec["hostname"]
    for entry in spec["linux"]["namespaces"]:
        if entry["type"] in {"pid", "uts", "network", "ipc"}:
            entry["path"] = f"/proc/{pid}/ns/{'net' if entry['type'] == 'network' else entry['type']}"
    done = runc.run(spec=spec)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "davit"
    assert "sleep 100" in done.stdout


def test_mount_options(runc: Runc, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "f").write_text("x")
    os.chown(source / "f", 1000, 1000)
    spec = spec_of(
        "sh",
        "-c",
        "touch /ro/x 2>&1; grep -o ' /nx .*noexec' /proc/self/mountinfo; stat -c %u:%g /mapped/f; "
        "cat /etc/copied/passwd; "
        "touch /etc/copied/new && echo written; grep -o '/shared .*shared:' /proc/self/mountinfo | cut -c1-7",
    )
    maps = [{"containerID": 0, "hostID": 0, "size": 1}, {"containerID": 1000, "hostID": 5000, "size": 1}]
    spec["mounts"] += [
        {"destination": "/ro", "type": "bind", "source": str(source), "options": ["rbind", "rro"]},
        {"destination": "/nx", "type": "bind", "source": str(source), "options": ["bind", "noexec"]},
        {
            "destination": "/mapped",
            "type": "bind",
            "source": str(source),
            "options": ["bind"],
            "uidMappings": maps,
            "gidMappings": maps,
        },
        {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "size=64k", "tmpcopyup"]},
        {"destination": "/shared", "type": "tmpfs", "source": "tmpfs", "options": ["shared"]},
        {"destination": "/etc/copied", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]},
    ]
    copied = runc.rootfs / "etc/copied"
    copied.mkdir(exist_ok=True)
    (copied / "passwd").write_text("copied\n")
    done = runc.run(spec=spec)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "Read-only file system" in lines[0]
    assert lines[1].endswith("noexec")
    assert lines[2:] == ["5000:5000", "copied", "written", "/shared"]


def test_masked_and_read_only_paths(runc: Runc) -> None:
    done = runc.run("sh", "-c", "wc -c < /proc/keys; ls /proc/acpi | wc -l; echo 1 > /proc/sys/kernel/domainname")
    assert done.stdout.split() == ["0", "0"]
    assert "Read-only file system" in done.stderr


def test_rest_of_process(runc: Runc) -> None:
    spec = spec_of(
        "sh",
        "-c",
        "umask; cat /proc/self/oom_score_adj; ulimit -n; cut -d' ' -f19 /proc/self/stat; "
        "grep -E '^Cap(Amb|Prm)' /proc/self/status; uname -m",
    )
    spec["process"]["user"] = {"uid": 33, "gid": 34, "umask": 0o27, "additionalGids": [4]}
    spec["process"] |= {"oomScoreAdj": 500, "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 64, "hard": 64}]}
    spec["process"]["scheduler"] = {"policy": "SCHED_OTHER", "nice": 7}
    spec["process"]["ioPriority"] = {"class": "IOPRIO_CLASS_BE", "priority": 6}
    sets = ["CAP_NET_BIND_SERVICE"]
    spec["process"]["capabilities"] = dict.fromkeys(
        ("bounding", "effective", "permitted", "inheritable", "ambient"), sets
    )
    spec["linux"]["personality"] = {"domain": "LINUX32"}
    done = runc.run(spec=spec)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.split("\n")
    assert lines[:4] == ["0027", "500", "64", "7"]
    assert all(line.endswith("0000000000000400") for line in lines[4:6])
    assert lines[6] == "i686"


def test_preserved_descriptors(runc: Runc) -> None:
    read, write = os.pipe()
    os.write(write, b"through\n")
    os.close(write)
    bundle = runc.bundle(spec_of("sh", "-c", "cat <&3; ls /proc/self/fd | wc -l"))

    def place() -> None:
        os.dup2(read, 3)

    done = subprocess.run(
        [*runc.command(), "run", "-b", str(bundle), "--preserve-fds", "1", runc.new_id()],
        capture_output=True,
        text=True,
        pass_fds=(3, read),
        preexec_fn=place,
        timeout=30,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    os.close(read)
    assert done.stdout.split() == ["through", "5"], done.stderr


def test_spec_runs(runc: Runc, tmp_path: Path) -> None:
    assert runc("spec", "--bundle", str(tmp_path)).returncode == 0
    spec = json.loads((tmp_path / "config.json").read_text())
    assert spec["ociVersion"].startswith("1.")
    assert "exists. Remove it first" in runc("spec", "--bundle", str(tmp_path)).stderr
    features = json.loads(runc("features").stdout)
    assert "time" in features["linux"]["namespaces"]
    assert "rro" in features["mountOptions"]
    assert features["linux"]["netDevices"] == {"enabled": True}
    assert "MPOL_BIND" in features["linux"]["memoryPolicy"]["modes"]


def test_update_and_events(runc: Runc) -> None:
    name = runc.detached("sleep", "100")
    assert runc("update", "--memory", "64m", "--pids-limit", "33", name).returncode == 0
    stats = json.loads(runc("events", "--stats", name).stdout)
    assert stats["type"] == "stats"
    assert stats["data"]["memory"]["usage"]["limit"] == 64 << 20
    assert stats["data"]["pids"]["limit"] == 33
    assert len(json.loads(runc("ps", "-f", "json", name).stdout)) == 1
