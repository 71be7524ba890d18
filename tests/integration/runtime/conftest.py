"""Containers of a busybox rootfs, by the zygote and by davit-runc; nothing may be left behind."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from services.executor.agent.shims.zygote import LaunchResult, Zygote
from services.executor.runtime import cgroups
from services.executor.runtime.commands.info import example
from tests.conftest import missing

ROOT = Path(__file__).resolve().parents[3]
BUSYBOX = "/usr/bin/busybox"
_numbers = itertools.count()


@pytest.fixture(scope="session")
def rootfs() -> Iterator[Path]:
    """A directory with busybox in it. Shared: tests that write get an overlay or a copy."""
    if os.geteuid() != 0:
        missing("root")
    if not os.path.exists(BUSYBOX):
        missing("busybox-static")
    directory = Path(tempfile.mkdtemp(prefix="davit-rootfs-", dir="/var/tmp"))
    for name in ("bin", "etc", "proc", "sys", "dev", "tmp", "home"):
        (directory / name).mkdir()
    shutil.copy(BUSYBOX, directory / "bin/busybox")
    for applet in subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout.split():
        if applet != "busybox":
            (directory / "bin" / applet).symlink_to("busybox")
    (directory / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/home:/bin/sh\n")
    (directory / "etc/group").write_text("root:x:0:\nweb:x:34:\nextra:x:50:web\nlog:x:4:\n")
    (directory / "tmp").chmod(0o1777)
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


def spec_of(*args: str, **changes: Any) -> dict[str, Any]:
    """A config.json that runs `args` without a terminal."""
    spec = example()
    spec["process"]["terminal"] = False
    spec["process"]["args"] = list(args)
    spec["process"]["rlimits"] = []
    spec["root"] = {"path": "rootfs"}
    spec["linux"]["namespaces"] = [entry for entry in spec["linux"]["namespaces"] if entry["type"] != "cgroup"]
    spec.update(changes)
    return spec


class Lab:
    """Makes orders and gives them to a zygote."""

    def __init__(self, zygote: Zygote, rootfs: Path, directory: Path) -> None:
        self.zygote = zygote
        self.rootfs = rootfs
        self.directory = directory
        self.results: list[LaunchResult] = []

    def order(self, *args: str, spec: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        """An order with an overlay, a log, a socket and an exit file in a directory of its own."""
        name = f"dt{os.getpid()}-{next(_numbers)}"
        bundle = self.directory / name
        for part in ("rootfs", "upper", "work"):
            (bundle / part).mkdir(parents=True)
        return {
            "id": name,
            "bundle": str(bundle),
            "spec": spec or spec_of(*args),
            "rootfs": {"lower": [str(self.rootfs)], "upper": str(bundle / "upper"), "work": str(bundle / "work")},
            "log": {"driver": "json-file", "path": str(bundle / "log")},
            "tty": False,
            "socket": str(bundle / "s"),
            "exit_file": str(bundle / "exit.json"),
            **more,
        }

    async def launch(self, *args: str, fds: tuple[int, ...] = (), **more: Any) -> LaunchResult:
        """Launch one."""
        order = more.pop("order", None) or self.order(*args, **more)
        result = await self.zygote.launch(order, fds)
        self.results.append(result)
        return result

    async def output(self, *args: str, **more: Any) -> str:
        """What a command printed, on both streams."""
        order = self.order(*args, **more)
        result = await self.launch(order=order)
        await result.client.wait()
        return "".join(entry["log"] for entry in logged(order))


def logged(order: dict[str, Any]) -> list[dict[str, Any]]:
    """The records of an order's log."""
    return [json.loads(line) for line in Path(order["log"]["path"]).read_text().splitlines()]


@pytest_asyncio.fixture
async def lab(rootfs: Path) -> AsyncIterator[Lab]:
    """A zygote, and a check that all its containers are gone at the end."""
    directory = Path(tempfile.mkdtemp(prefix="dt", dir="/tmp"))
    zygote = Zygote(directory)
    await zygote.start()
    made = Lab(zygote, rootfs, directory)
    yield made
    for result in made.results:
        if not result.client.closed.done():
            try:
                await result.client.signal(9)
                await result.client.wait()
            except Exception:  # it ended by itself in the meantime
                pass
        await result.client.close()
    await zygote.close()
    for order in directory.iterdir():
        assert not cgroups.detect().open(f"/davit/{order.name}").exists()
    shutil.rmtree(directory)


class Runc:
    """davit-runc with a root and bundles of its own."""

    def __init__(self, directory: Path, rootfs: Path) -> None:
        self.directory = directory
        self.rootfs = rootfs
        self.ids: list[str] = []

    def bundle(self, spec: dict[str, Any]) -> Path:
        """A new bundle around the shared rootfs."""
        path = self.directory / f"bundle{next(_numbers)}"
        path.mkdir()
        spec = {**spec, "root": {**spec["root"], "path": str(self.rootfs)}}
        (path / "config.json").write_text(json.dumps(spec))
        return path

    def __call__(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run the command line."""
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.run([*self.command(), *arguments], text=True, timeout=60, check=False, **(streams | options))

    def command(self) -> list[str]:
        """The program with its root."""
        path = f"import sys; sys.path.insert(0, {str(ROOT)!r}); "
        start = "from services.executor.runtime.cli import main; sys.exit(main())"
        return [sys.executable, "-ISE", "-c", path + start, "--root", str(self.directory / "root")]

    def new_id(self) -> str:
        """An id that is cleaned up at the end."""
        self.ids.append(f"dr{os.getpid()}-{next(_numbers)}")
        return self.ids[-1]

    def run(
        self, *args: str, spec: dict[str, Any] | None = None, options: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        """`run` in the foreground."""
        bundle = self.bundle(spec or spec_of(*args))
        return self("run", "--bundle", str(bundle), *options, self.new_id())

    def detached(self, *args: str, spec: dict[str, Any] | None = None) -> str:
        """The id of a container that runs in the background."""
        bundle = self.bundle(spec or spec_of(*args))
        name = self.new_id()
        # the container inherits these streams: pipes would be waited for
        done = self(
            "run", "--detach", "--bundle", str(bundle), name, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        assert done.returncode == 0
        return name


@pytest.fixture
def runc(rootfs: Path) -> Iterator[Runc]:
    """davit-runc; its containers are deleted at the end."""
    directory = Path(tempfile.mkdtemp(prefix="dr", dir="/tmp"))
    made = Runc(directory, rootfs)
    yield made
    for name in made.ids:
        made("delete", "--force", name)
        assert not cgroups.detect().open(f"/davit/{name}").exists()
    shutil.rmtree(directory)
