"""What a container started by the zygote finds of its makers: nothing it could use."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from services.executor.runtime import cgroups, state
from services.executor.runtime.errors import CommandFailure, RuntimeFailure
from tests.integration.runtime.conftest import Lab, spec_of

pytestmark = pytest.mark.root


def test_interpreter_cannot_be_written_through_the_zygote(lab: Lab) -> None:
    assert os.statvfs(f"/proc/{lab.zygote.pid}/exe").f_flag & os.ST_RDONLY


async def test_command_that_is_the_interpreter_itself(lab: Lab) -> None:
    """CVE-2019-5736: the container executes /proc/self/exe, then tries to write to what that was."""
    order = lab.order("/bin/attack")
    script = Path(order["rootfs"]["upper"], "bin")
    script.mkdir()
    attack = """#!/proc/self/exe
import os
fd = os.open('/proc/self/exe', os.O_PATH)
try:
    os.open(f'/proc/self/fd/{fd}', os.O_WRONLY)
    print('written')
except OSError as error:
    print(error.errno)
"""
    (script / "attack").write_text(attack)
    (script / "attack").chmod(0o755)
    try:
        result = await lab.launch(order=order)
    except CommandFailure:  # the interpreter's libraries are not in this image: it cannot even be executed
        return
    await result.client.wait()
    assert "written" not in Path(order["log"]["path"]).read_text()


async def test_no_descriptor_is_inherited(lab: Lab) -> None:
    # the fourth is that of the directory being listed
    assert (await lab.output("ls", "/proc/self/fd")).split() == ["0", "1", "2", "3"]


async def test_environment_of_the_runtime_is_not_inherited(lab: Lab) -> None:
    spec = spec_of("env")
    spec["process"]["env"] = ["PATH=/bin"]
    assert (await lab.output(spec=spec)).split() == ["PATH=/bin", "HOME=/root"]


async def test_container_ends_with_its_shim(lab: Lab) -> None:
    """There would be nobody left to take its output or its end."""
    result = await lab.launch("sleep", "100")
    os.kill(result.shim_pid, signal.SIGKILL)
    for _ in range(100):
        if state.is_zombie(result.pid):
            break
        await asyncio.sleep(0.05)
    assert state.is_zombie(result.pid)
    cgroup = f"/davit/{lab.directory.joinpath(os.listdir(lab.directory)[0]).name}"
    cgroups.detect().open(cgroup).remove()


async def test_links_in_the_image_do_not_lead_mounts_out(lab: Lab, tmp_path: Path) -> None:
    target = tmp_path / "host"
    target.mkdir()
    order = lab.order(spec=spec_of("cat", "/link/file"))
    os.symlink(str(target), Path(order["rootfs"]["upper"], "link"))
    order["spec"]["mounts"].append({"destination": "/link", "type": "tmpfs", "source": "tmpfs"})
    result = await lab.launch(order=order)
    await result.client.wait()
    assert os.listdir(target) == []
    assert Path(order["rootfs"]["upper"], str(target).lstrip("/")).is_dir()


async def test_proc_cannot_be_covered(lab: Lab) -> None:
    spec = spec_of("true")
    spec["mounts"].append({"destination": "/proc/self/attr", "type": "tmpfs", "source": "tmpfs"})
    with pytest.raises(RuntimeFailure, match="inside /proc"):
        await lab.launch(spec=spec)


async def test_proc_must_not_be_a_link(lab: Lab) -> None:
    order = lab.order("true")
    upper = Path(order["rootfs"]["upper"])
    os.symlink("/tmp", upper / "procs")
    for mount in order["spec"]["mounts"]:
        if mount["destination"] == "/proc":
            mount["destination"] = "/procs"
    with pytest.raises(RuntimeFailure, match="ordinary directory"):
        await lab.launch(order=order)
