"""As an unprivileged user: what a container can be without root, and what it says that it cannot."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.runtime.conftest import BUSYBOX, OURS, commands, eventually, make_rootfs

pytestmark = pytest.mark.root

USER = 12345
SYSTEM_PYTHON = "/usr/bin/python3"


#: become a user who is in passwd, with more ids: in a mount namespace where those files are others
_WITH_IDS = f"""for file in passwd subuid subgid; do mount --bind $0/$file /etc/$file || exit 99; done
exec setpriv --reuid {USER} --regid {USER} --clear-groups -- sh -c 'exec "$@"' - "$@"
"""


class User:
    """A runtime, and a bundle that `spec --rootless` began, of a user without privileges."""

    def __init__(self, name: str, command: list[str], directory: Path) -> None:
        self.is_ours = name == "davit-runc"
        self.prefix: list[str] = []
        self.directory = directory
        self.command = [*command, "--root", str(directory / "root")]

    def __call__(self, *arguments: str) -> tuple[int, str]:
        """Exit code, and all that was printed."""
        user: dict[str, Any] = {} if self.prefix else {"user": USER, "group": USER, "extra_groups": []}
        with open(self.directory / "said", "w+b") as said:
            done = subprocess.run(
                [*self.prefix, *self.command, *arguments],
                **user,
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

    def grant(self, ids: str) -> None:
        """Let the user have more ids ("first:count") by way of newuidmap."""
        passwd = Path("/etc/passwd").read_text()
        (self.directory / "passwd").write_text(f"{passwd}rl:x:{USER}:{USER}::/:/bin/sh\n")
        for name in ("subuid", "subgid"):
            (self.directory / name).write_text(f"rl:{ids}\n")
        self.prefix = ["unshare", "--mount", "sh", "-c", _WITH_IDS, str(self.directory)]

    def change(self, change: Callable[[dict[str, Any]], object]) -> None:
        path = self.directory / "config.json"
        spec = json.loads(path.read_text())
        change(spec)
        path.write_text(json.dumps(spec))

    def program(self, *words: str) -> None:
        self.change(lambda spec: spec["process"].update(terminal=False, args=list(words)))


def _reachable(name: str) -> list[str]:
    """The runtime, by an interpreter that is not in root's home; skips when there is none."""
    found = [commands()[name], [SYSTEM_PYTHON, "-E", "-s", "-c", OURS] if name == "davit-runc" else None]
    for command in found:
        if command is None or not os.path.exists(command[0]):
            continue
        with contextlib.suppress(PermissionError):
            asked = subprocess.run([*command, "--version"], user=USER, group=USER, capture_output=True, check=False)
            if asked.returncode == 0:
                return command
    pytest.skip("the runtime is not installed, or its files are root's alone")


@pytest.fixture(params=["davit-runc", "runc"])
def user(request: pytest.FixtureRequest) -> Iterator[User]:
    if os.geteuid() != 0 or not BUSYBOX.exists():
        pytest.skip("needs root to become somebody else, and busybox-static")
    command = _reachable(request.param)
    directory = Path(tempfile.mkdtemp(prefix="rl", dir="/var/tmp"))
    made = User(request.param, command, directory)
    try:
        directory.chmod(0o755)
        make_rootfs(directory / "rootfs")
        for path in [directory, *directory.rglob("*")]:
            os.lchown(path, USER, USER)
        code, said = made("spec", "--rootless")
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


@pytest.fixture
def helped(user: User) -> User:
    """With 65536 ids beside the user's own, mapped from 1 on."""
    if not shutil.which("newuidmap") or not os.path.exists("/etc/subuid") or not os.path.exists("/etc/subgid"):
        pytest.skip("newuidmap is not installed, or nobody may be given ids")
    user.grant("200000:65536")
    for name in ("uidMappings", "gidMappings"):
        mapping = {"containerID": 1, "hostID": 200000, "size": 65536}
        user.change(lambda spec, name=name, mapping=mapping: spec["linux"][name].append(mapping))  # type: ignore[misc]
    user.change(lambda spec: spec["root"].update(readonly=False))
    return user


def test_ranges_of_ids_come_from_newuidmap(helped: User) -> None:
    helped.program("sh", "-c", "cat /proc/self/gid_map /proc/self/setgroups; chown 5:6 /mnt; stat -c %u:%g /mnt")
    sets = {name: ["CAP_CHOWN"] for name in ("bounding", "effective", "permitted")}
    helped.change(lambda spec: spec["process"].update(capabilities=sets))
    code, said = helped("run", "c")
    assert (code, said.split()) == (0, ["0", str(USER), "1", "1", "200000", "65536", "allow", "5:6"])
    found = (helped.directory / "rootfs" / "mnt").stat()
    assert (found.st_uid, found.st_gid) == (200004, 200005)


def test_other_users_than_root_are_among_them(helped: User) -> None:
    helped.program("sleep", "300")
    helped.change(lambda spec: spec["process"].update(user={"uid": 1000, "gid": 1000}))
    assert helped("run", "--detach", "c") == (0, "")
    assert helped("exec", "--user", "3:4", "c", "id") == (0, "uid=3 gid=4\n")
    pid = json.loads(helped("state", "c")[1])["pid"]
    assert os.stat(f"/proc/{pid}").st_uid == 200999


def test_ranges_that_are_not_ones_own_are_refused(helped: User) -> None:
    helped.program("true")
    helped.change(lambda spec: spec["linux"]["uidMappings"][1].update(size=65537))
    code, said = helped("run", "c")
    assert (code, "uid range [1-65538) -> [200000-265537) not allowed" in said) == (1, True), said
    if helped.is_ours:
        assert "ended with 1 (newuidmap:" in said
    assert helped("state", "c")[0] == 1


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
