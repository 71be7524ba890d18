"""Orders given to a zygote: what runs, what comes back, what is left on disk."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from services.executor.agent.shims.client import ShimClient, ShimGone
from services.executor.runtime import cgroups
from services.executor.runtime.errors import CommandFailure, InvalidSpec, RuntimeFailure, UserFailure, WrongState
from services.executor.runtime.shim import exitrecord
from services.executor.runtime.state import is_zombie
from tests.conftest import missing
from tests.integration.runtime.conftest import Lab, logged, spec_of

pytestmark = pytest.mark.root


async def test_exit_code_log_and_record(lab: Lab) -> None:
    order = lab.order("sh", "-c", "echo out; echo err >&2; exit 7")
    result = await lab.launch(order=order)
    record = await result.client.wait()
    assert (record.exit_code, record.signal, record.oom_killed) == (7, 0, False)
    assert record.started_at_ns <= record.finished_at_ns
    assert sorted((entry["stream"], entry["log"]) for entry in logged(order)) == [
        ("stderr", "err\n"),
        ("stdout", "out\n"),
    ]
    kept = exitrecord.read(order["exit_file"])
    assert kept is not None
    assert kept.to_dict() == record.to_dict()
    assert not os.path.exists(order["socket"])


async def test_killed_by_signal(lab: Lab) -> None:
    result = await lab.launch("sleep", "100")
    await result.client.signal(signal.SIGKILL)
    record = await result.client.wait()
    assert (record.exit_code, record.signal) == (137, 9)


@pytest.mark.parametrize(
    ("args", "text", "code"),
    [
        (("nosuch",), 'exec: "nosuch": executable file not found in $PATH', 127),
        (("/nosuch",), 'exec: "/nosuch": stat /nosuch: no such file or directory', 127),
        (("./nosuch",), 'exec: "./nosuch": stat ./nosuch: no such file or directory', 127),
        (("/etc",), 'exec: "/etc": permission denied', 126),
        (("/etc/passwd",), 'exec: "/etc/passwd": permission denied', 126),
    ],
)
async def test_commands_that_cannot_run(lab: Lab, args: tuple[str, ...], text: str, code: int) -> None:
    order = lab.order(*args)
    with pytest.raises(CommandFailure, match="exec") as caught:
        await lab.launch(order=order)
    assert caught.value.message == text
    assert caught.value.exit_code == code
    kept = exitrecord.read(order["exit_file"])
    assert kept is not None
    assert (kept.exit_code, kept.error, kept.started_at_ns) == (code, text, 0)


@pytest.mark.parametrize(
    ("user", "shown"),
    [
        ("web", "uid=33(web) gid=34(web) groups=34(web),50(extra) /home"),
        ("web:log", "uid=33(web) gid=4(log) groups=4(log) /home"),
        ("33", "uid=33(web) gid=34(web) groups=34(web),50(extra) /home"),
        ("1000:1001", "uid=1000 gid=1001 groups=1001 /"),
        ("1000", "uid=1000 gid=0(root) groups=0(root) /"),
    ],
)
async def test_users(lab: Lab, user: str, shown: str) -> None:
    assert (await lab.output("sh", "-c", "echo $(id) $HOME", user=user)).strip() == shown


@pytest.mark.parametrize(
    ("user", "text"),
    [
        ("ghost", "unable to find user ghost: no matching entries in passwd file"),
        ("root:ghost", "unable to find group ghost: no matching entries in group file"),
        ("99999999999", "uids and gids must be in range 0-2147483647"),
    ],
)
async def test_unknown_users(lab: Lab, user: str, text: str) -> None:
    with pytest.raises(UserFailure) as caught:
        await lab.launch("true", user=user)
    assert caught.value.message == text


async def test_failure_names_the_field(lab: Lab) -> None:
    spec = spec_of("true")
    spec["linux"]["namespaces"].append({"type": "pid"})
    with pytest.raises(InvalidSpec) as caught:
        await lab.launch(spec=spec)
    assert caught.value.field is not None
    assert caught.value.field.startswith("linux.namespaces[")


async def test_create_then_attach_then_start(lab: Lab) -> None:
    order = lab.order(
        "sh", "-c", "read line; echo got $line; echo two >&2", start=False, open_stdin=True, stdin_once=True
    )
    result = await lab.launch(order=order)
    assert (await result.client.state()).status == "created"
    reader, writer = await result.client.attach(stdin=True)
    await result.client.start()
    with pytest.raises(WrongState):
        await result.client.start()
    writer.write(b"hello\n")
    writer.write_eof()
    received = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    frames = sorted(_frames(received))
    assert frames == [(1, b"got hello\n"), (2, b"two\n")]
    assert (await result.client.wait()).exit_code == 0


def _frames(data: bytes) -> list[tuple[int, bytes]]:
    frames = []
    while data:
        size = int.from_bytes(data[4:8], "big")
        frames.append((data[0], data[8 : 8 + size]))
        data = data[8 + size :]
    return frames


async def test_terminal(lab: Lab) -> None:
    order = lab.order(
        "sh", "-c", "tty; stty size; read x; stty size", tty=True, open_stdin=True, console_size=[30, 100], start=False
    )
    result = await lab.launch(order=order)
    reader, writer = await result.client.attach(stdin=True)
    await result.client.start()
    seen = b""
    while b"30 100" not in seen:
        seen += await asyncio.wait_for(reader.read(100), 10)
    await result.client.resize(40, 120)
    writer.write(b"\n")
    rest = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    assert seen.startswith(b"/dev/pts/0\r\n")
    assert b"40 120" in rest
    await result.client.wait()


async def test_exec(lab: Lab) -> None:
    container = lab.order("sleep", "100")
    result = await lab.launch(order=container)
    log = {"driver": "json-file", "path": container["log"]["path"] + ".exec"}
    process = {"args": ["sh", "-c", "echo $(id -u) $(hostname) $0; exit 5"], "cwd": "/", "env": ["PATH=/bin"]}
    order = {
        "id": container["id"],
        "exec_id": "e1",
        "pid": result.pid,
        "cgroup": f"/davit/{container['id']}",
        "process": process,
        "user": "web",
        "log": log,
        "socket": container["socket"] + "e",
        "exit_file": container["exit_file"] + "e",
    }
    made = await lab.launch(order=order)
    assert (await made.client.wait()).exit_code == 5
    assert [entry["log"] for entry in logged(order)] == ["33 davit sh\n"]
    with pytest.raises(CommandFailure, match="executable file not found"):
        await lab.launch(order={**order, "exec_id": "e2", "process": {**process, "args": ["nosuch"]}})


async def test_reconnect_after_restart(lab: Lab) -> None:
    """What an agent does that was killed: connect again, wait; and read the file when it came too late."""
    order = lab.order("sleep", "100")
    result = await lab.launch(order=order)
    await result.client.close()
    again = await ShimClient.connect(order["socket"])
    assert (await again.state()).pid == result.pid
    await again.signal(15)
    await again.signal(9)
    assert (await again.wait()).exit_code == 137
    await again.closed
    with pytest.raises(ShimGone):
        await ShimClient.connect(order["socket"])
    assert ShimClient.read_exit_file(order["exit_file"]) is not None


async def test_zygote_killed(lab: Lab) -> None:
    """Containers live on, and the next order starts another zygote."""
    first = await lab.launch("sleep", "100")
    os.kill(lab.zygote.pid, signal.SIGKILL)
    second = await lab.launch("true")
    assert (await second.client.wait()).exit_code == 0
    assert (await first.client.state()).status == "running"


@pytest.mark.parametrize("whom", ["shim", "launcher"])
async def test_a_waiting_pair_is_killed(lab: Lab, whom: str) -> None:
    """The zygote has another pair ready for the next order; the one that waited leaves nothing."""
    assert (await (await lab.launch("true")).client.wait()).exit_code == 0
    shim, launcher = await _waiting_pair(lab)
    os.kill({"shim": shim, "launcher": launcher}[whom], signal.SIGKILL)
    await _gone(shim)
    await _gone(launcher)
    assert (await (await lab.launch("true")).client.wait()).exit_code == 0


async def test_a_launcher_is_killed_over_its_order(lab: Lab) -> None:
    """Nothing runs then, and the caller is told so: the order may be given again."""
    fifo = lab.directory / "never-written"
    os.mkfifo(fifo)
    order = lab.order("true")
    order["spec"]["hooks"] = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", f"read x < {fifo}"]}]}
    await (await lab.launch("true")).client.wait()
    shim, launcher = await _waiting_pair(lab)
    asked = asyncio.create_task(lab.launch(order=order))
    await _eventually(lambda: _children(launcher) != [])
    os.kill(launcher, signal.SIGKILL)
    with pytest.raises(ShimGone):
        await asyncio.wait_for(asked, 10)
    await _gone(shim)
    with fifo.open("r+b", buffering=0) as pipe:  # lets the hook go
        pipe.write(b"\n")
    fifo.unlink()
    assert (await (await lab.launch("true")).client.wait()).exit_code == 0
    cgroups.detect().open(f"/davit/{order['id']}").remove()


async def _waiting_pair(lab: Lab) -> tuple[int, int]:
    """Pids of the shim that waits for an order, and of its launcher."""

    def found() -> list[tuple[int, int]]:
        return [(shim, child) for shim in _children(lab.zygote.pid) for child in _children(shim)]

    await _eventually(lambda: len(found()) == 1)
    return found()[0]


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


async def _gone(pid: int) -> None:
    await _eventually(lambda: not Path(f"/proc/{pid}").exists() or is_zombie(pid))


async def _eventually(true: Callable[[], bool]) -> None:
    for _ in range(500):
        if true():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came true")


async def test_slow_client_does_not_stop_the_log(lab: Lab) -> None:
    """A client that reads nothing gets its buffer; one that goes away frees the container."""
    order = lab.order(
        "sh", "-c", "read x; head -c 4000000 /dev/zero | tr '\\0' x; echo; echo end", start=False, open_stdin=True
    )
    result = await lab.launch(order=order)
    reader, writer = await result.client.attach(stdin=True)
    await result.client.start()
    writer.write(b"go\n")
    await asyncio.sleep(0.5)
    assert (await result.client.state()).status == "running"
    writer.close()
    del reader
    record = await asyncio.wait_for(result.client.wait(), 30)
    assert record.exit_code == 0
    entries = logged(order)
    assert sum(len(entry["log"]) for entry in entries) == 4000005
    assert entries[-1]["log"] == "end\n"


async def test_log_rotation(lab: Lab) -> None:
    order = lab.order("sh", "-c", "seq 1 20000")
    order["log"]["options"] = {"max-size": "100k", "max-file": "3"}
    result = await lab.launch(order=order)
    await result.client.wait()
    files = sorted(Path(order["bundle"]).glob("log*"))
    assert [file.name for file in files] == ["log", "log.1", "log.2"]
    assert all(file.stat().st_size <= 100_000 for file in files)
    assert logged(order)[-1]["log"] == "20000\n"


async def test_init_reaps(lab: Lab) -> None:
    if not os.path.exists("/usr/bin/tini-static"):
        missing("tini")
    assert (await lab.output("ps", init=True)).splitlines()[1].split(None, 2)[2] == "/sbin/docker-init -- ps"


async def test_network_namespace_by_descriptor(lab: Lab) -> None:
    fd = os.open("/proc/self/ns/net", os.O_RDONLY)
    spec = spec_of("readlink", "/proc/self/ns/net")
    for entry in spec["linux"]["namespaces"]:
        if entry["type"] == "network":
            entry["path"] = "/proc/self/fd/{fd:0}"
    spec["mounts"] = [mount for mount in spec["mounts"] if mount["destination"] != "/sys"]
    order = lab.order(spec=spec)
    result = await lab.launch(order=order, fds=(fd,))
    os.close(fd)
    await result.client.wait()
    assert logged(order)[0]["log"].strip() == os.readlink("/proc/self/ns/net")


async def test_unsupported_log_driver(lab: Lab) -> None:
    order = lab.order("true")
    order["log"] = {"driver": "syslog"}
    with pytest.raises(RuntimeFailure) as caught:
        await lab.launch(order=order)
    assert caught.value.field == "log.driver"


async def test_memory_of_a_shim(lab: Lab) -> None:
    """One megabyte is what an idle container may cost: its shim has touched no more."""
    result = await lab.launch("sleep", "100")
    await asyncio.sleep(0.2)
    rollup = Path(f"/proc/{result.shim_pid}/smaps_rollup").read_text()
    dirty = next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Private_Dirty"))
    assert dirty <= 1024
