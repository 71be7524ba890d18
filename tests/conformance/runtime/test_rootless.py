"""As an unprivileged user: what a container can be without root, and what it says that it cannot."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.runtime.conftest import BUSYBOX, commands, eventually, make_rootfs

pytestmark = pytest.mark.root

USER = 12345


class User:
    """A runtime, and a bundle that `spec --rootless` began, of a user without privileges."""

    def __init__(self, name: str, command: list[str], directory: Path) -> None:
        self.is_ours = name == "davit-runc"
        self.directory = directory
        self.command = [*command, "--root", str(directory / "root")]

    def __call__(self, *arguments: str) -> tuple[int, str]:
        """Exit code, and all that was printed."""
        with open(self.directory / "said", "w+b") as said:
            done = subprocess.run(
                [*self.command, *arguments],
                user=USER,
                group=USER,
                extra_groups=[],
                cwd=self.directory,
                env={"PATH": os.environ["PATH"]},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                timeout=30,
                check=False,
            )
            said.seek(0)
            return done.returncode, said.read().decode()

    def change(self, change: Callable[[dict[str, Any]], object]) -> None:
        path = self.directory / "config.json"
        spec = json.loads(path.read_text())
        change(spec)
        path.write_text(json.dumps(spec))

    def program(self, *words: str) -> None:
        self.change(lambda spec: spec["process"].update(terminal=False, args=list(words)))


@pytest.fixture(params=["davit-runc", "runc"])
def user(request: pytest.FixtureRequest) -> Iterator[User]:
    command = commands()[request.param]
    if os.geteuid() != 0 or command is None or not BUSYBOX.exists():
        pytest.skip("needs root to become somebody else, busybox-static, and the runtime")
    directory = Path(tempfile.mkdtemp(prefix="rl", dir="/var/tmp"))
    made = User(request.param, command, directory)
    try:
        directory.chmod(0o755)
        make_rootfs(directory / "rootfs")
        for path in [directory, *directory.rglob("*")]:
            os.lchown(path, USER, USER)
        try:
            code, said = made("spec", "--rootless")
        except PermissionError:
            pytest.skip("the runtime's files are root's alone")
        assert code == 0, said
        yield made
        made("delete", "--force", "c")
    finally:
        shutil.rmtree(directory)


def test_run(user: User) -> None:
    user.program("sh", "-c", "id -u; cat /proc/self/uid_map; cat /proc/self/setgroups; ls /dev/null /sys/kernel")
    user.change(lambda spec: spec["root"].update(readonly=False))
    code, said = user("run", "c")
    assert code == 0, said
    assert said.split()[:5] == ["0", "0", str(USER), "1", "deny"]


def test_a_life(user: User) -> None:
    user.program("sleep", "300")
    assert user("run", "--detach", "c") == (0, "")
    assert user("exec", "c", "id", "-u") == (0, "0\n")
    code, said = user("state", "c")
    assert (code, json.loads(said)["status"]) == (0, "running")
    for command in (["pause", "c"], ["ps", "c"]):
        assert user(*command)[0] == 1
    assert user("kill", "c", "KILL")[0] == 0
    eventually(lambda: json.loads(user("state", "c")[1])["status"] == "stopped")
    assert user("delete", "c") == (0, "")


def test_limits_need_a_control_group(user: User) -> None:
    user.program("true")
    user.change(lambda spec: spec["linux"].update(resources={"pids": {"limit": 100}}))
    code, said = user("run", "c")
    assert (code, "cannot set pids limit: container could not join or create cgroup" in said) == (1, True), said
    assert user("state", "c")[0] == 1


def test_a_control_group_that_is_named_must_be_made(user: User) -> None:
    user.program("true")
    user.change(lambda spec: spec["linux"].update(cgroupsPath="/not-mine/c"))
    code, said = user("run", "c")
    assert (code, "cgroup configuration: mkdir" in said, "permission denied" in said) == (1, True, True), said


def test_more_ids_than_ones_own_need_helpers(user: User) -> None:
    if shutil.which("newuidmap"):
        pytest.skip("they are installed")
    user.program("true")
    mapping = {"containerID": 1, "hostID": 100000, "size": 10}
    user.change(lambda spec: spec["linux"]["uidMappings"].append(mapping))
    code, said = user("run", "c")
    assert code == 1
    if user.is_ours:  # runc 1.1 tries without, and says what came of it
        assert "newuidmap is needed" in said


def test_flags_that_are_locked_stay_unless_that_is_to_be_an_error(user: User) -> None:
    if not user.is_ours:
        pytest.skip("runc has the option from 1.2 on")
    source = user.directory / "locked"
    source.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "nosuid", "locked", str(source)], check=True)
    try:
        user.program("sh", "-c", "grep ' /mnt ' /proc/mounts | cut -d' ' -f4")
        mount = {"destination": "/mnt", "source": str(source), "options": ["bind", "suid", "ro"]}
        user.change(lambda spec: spec["mounts"].append(mount))
        code, said = user("run", "c")
        assert (code, {"ro", "nosuid"} <= set(said.strip().split(","))) == (0, True), said
        code, said = user("run", "--no-mount-fallback", "c")
        assert (code, "operation not permitted" in said) == (1, True), said
    finally:
        subprocess.run(["umount", str(source)], check=True)
