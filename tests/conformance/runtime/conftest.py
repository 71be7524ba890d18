"""The same questions to davit-runc and, as the control, to runc: what the OCI runtime specification says MUST be.

A test gets `oci`, a runtime behind runc's command line, once for each of the two. Where they differ on purpose, the
test says why.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import missing

BUSYBOX = Path("/bin/busybox")
ROOT = Path(__file__).resolve().parents[3]
APPLETS = (
    "sh cat echo ls id mount umount hostname sleep true false test grep stat touch mkdir rmdir rm ln mknod ps kill "
    "head tail wc tr cut awk sed env pwd umask ulimit readlink sync dd chmod chown find nproc printf sort uniq tty "
    "stty setsid timeout date ip nice ionice which"
)
TIMEOUT_S = 30

CAPABILITIES = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
SPEC: dict[str, Any] = {
    "ociVersion": "1.0.2",
    "process": {
        "user": {"uid": 0, "gid": 0},
        "args": ["true"],
        "env": ["PATH=/bin", "TERM=xterm"],
        "cwd": "/",
        "capabilities": {"bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES},
        "noNewPrivileges": True,
    },
    "root": {"path": "rootfs"},
    "hostname": "conformance",
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {
            "destination": "/dev",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
        },
        {
            "destination": "/dev/pts",
            "type": "devpts",
            "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        },
        {
            "destination": "/dev/shm",
            "type": "tmpfs",
            "source": "shm",
            "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
        },
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
    ],
    "linux": {
        "resources": {"devices": [{"allow": False, "access": "rwm"}]},
        "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")],
        "maskedPaths": ["/proc/kcore", "/proc/timer_list"],
        "readonlyPaths": ["/proc/sys", "/proc/bus"],
    },
}


class Result:
    """What a command of the runtime did."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.code = done.returncode
        self.out = done.stdout
        self.err = done.stderr

    def __repr__(self) -> str:
        return f"exit {self.code}, out {self.out!r}, err {self.err!r}"

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


class Bundle:
    """A bundle on disk: `spec` is changed freely, and written when the container is made."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.rootfs = directory / "rootfs"
        self.spec: dict[str, Any] = copy.deepcopy(SPEC)

    @property
    def process(self) -> dict[str, Any]:
        return self.spec["process"]  # type: ignore[no-any-return]

    @property
    def linux(self) -> dict[str, Any]:
        return self.spec["linux"]  # type: ignore[no-any-return]

    def shell(self, script: str) -> None:
        self.process["args"] = ["sh", "-c", script]

    def without_namespace(self, kind: str) -> None:
        self.linux["namespaces"] = [entry for entry in self.linux["namespaces"] if entry["type"] != kind]

    def add_namespace(self, kind: str, path: str | None = None) -> None:
        self.without_namespace(kind)
        self.linux["namespaces"].append({"type": kind, "path": path} if path else {"type": kind})

    def write(self) -> None:
        (self.directory / "config.json").write_text(json.dumps(self.spec))


class Runtime:
    """A runtime with a root of its own, and the containers that a test made with it."""

    def __init__(self, name: str, command: list[str], directory: Path) -> None:
        self.name = name
        self.command = [*command, "--root", str(directory / "root")]
        self.directory = directory
        self.ids: list[str] = []
        self.bundles = 0

    @property
    def is_ours(self) -> bool:
        return self.name == "davit-runc"

    def bundle(self) -> Bundle:
        self.bundles += 1
        directory = self.directory / f"bundle{self.bundles}"
        make_rootfs(directory / "rootfs")
        return Bundle(directory)

    def new_id(self) -> str:
        self.ids.append(f"conf-{uuid.uuid4().hex[:12]}")
        return self.ids[-1]

    def call(
        self, *arguments: str, stdin: str | None = None, cwd: Path | None = None, fds: tuple[int, ...] = ()
    ) -> Result:
        """A command of the runtime. Output goes through files: a container that lives on keeps pipes open."""
        with open(self.directory / "out", "w+b") as out, open(self.directory / "err", "w+b") as err:
            done = subprocess.run(
                [*self.command, *arguments],
                input=None if stdin is None else stdin.encode(),
                stdin=subprocess.DEVNULL if stdin is None else None,
                stdout=out,
                stderr=err,
                cwd=cwd,
                pass_fds=fds,
                timeout=TIMEOUT_S,
                check=False,
            )
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode(errors="replace"))
        return Result(subprocess.CompletedProcess([], done.returncode, *texts))

    def run(self, bundle: Bundle, *options: str, stdin: str | None = None) -> Result:
        """`run` in the foreground."""
        bundle.write()
        return self.call("run", "-b", str(bundle.directory), *options, self.new_id(), stdin=stdin)

    def output(self, bundle: Bundle, script: str | None = None) -> str:
        """What the container prints; it must end well."""
        if script is not None:
            bundle.shell(script)
        result = self.run(bundle)
        assert result.code == 0, result
        return result.out.rstrip("\n")

    def refuses(self, bundle: Bundle) -> Result:
        """`create` must fail, and leave no container behind."""
        bundle.write()
        container = self.new_id()
        result = self.call("create", "-b", str(bundle.directory), container)
        assert result.code != 0, "accepted"
        assert self.call("state", container).code != 0, "a container was left behind"
        return result

    def create(self, bundle: Bundle, *options: str) -> str:
        bundle.write()
        container = self.new_id()
        result = self.call("create", "-b", str(bundle.directory), *options, container)
        assert result.code == 0, result
        return container

    def running(self, bundle: Bundle) -> str:
        """A container that runs until it is killed."""
        bundle.process["args"] = ["sleep", "300"]
        container = self.create(bundle)
        assert self.call("start", container).code == 0
        return container

    def state(self, container: str) -> dict[str, Any]:
        result = self.call("state", container)
        assert result.code == 0, result
        return json.loads(result.out)  # type: ignore[no-any-return]

    def reaches(self, container: str, status: str) -> None:
        eventually(lambda: self.state(container)["status"] == status)

    def stop(self, container: str) -> None:
        assert self.call("kill", container, "KILL").code == 0
        self.reaches(container, "stopped")

    def clean(self) -> None:
        for container in self.ids:
            self.call("delete", "--force", container)


def eventually(condition: Callable[[], Any], timeout_s: float = 15) -> Any:
    """The first true answer of `condition`."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.02)


def make_rootfs(rootfs: Path) -> None:
    """A root file system of busybox and a few files."""
    for name in ("bin", "proc", "sys", "dev", "tmp", "etc", "root", "mnt"):
        (rootfs / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, rootfs / "bin" / "busybox")
    for applet in APPLETS.split():
        (rootfs / "bin" / applet).symlink_to("busybox")
    (rootfs / "etc" / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home:/bin/sh\n")
    (rootfs / "etc" / "group").write_text("root:x:0:\nuser:x:1000:\n")


def commands() -> dict[str, list[str] | None]:
    """Command by runtime; None where it is not installed."""
    runc = shutil.which("runc", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    ours = [sys.executable, "-E", "-s", "-c", OURS]
    installed = Path(sys.executable).with_name("davit-runc")
    return {"davit-runc": [str(installed)] if installed.exists() else ours, "runc": [runc] if runc else None}


OURS = (
    f"import sys; sys.path.insert(0, {str(ROOT)!r}); from services.executor.runtime.cli import main; sys.exit(main())"
)


@pytest.fixture(params=["davit-runc", "runc"])
def oci(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Runtime]:
    if os.geteuid() != 0:
        missing("root")
    if not BUSYBOX.exists():
        missing("busybox-static")
    command = commands()[request.param]
    if command is None:
        pytest.skip(f"{request.param} is not installed")
    runtime = Runtime(request.param, command, tmp_path)
    yield runtime
    runtime.clean()


@pytest.fixture
def bundle(oci: Runtime) -> Bundle:
    return oci.bundle()
