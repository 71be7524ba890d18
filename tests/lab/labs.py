"""Labs for tests: `davit lab` in a directory of its own, gone afterwards."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from tests.lab.engine import DAVIT, ROOT, busybox_tar
from tests.lab.netns import run

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
# A ping of one's own: exact to microseconds, and there without a package.
PING = """\
import os, select, socket, statistics, struct, sys, time
target, count, pause = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
ping = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
ping.connect((target, 0))
def message(number):
    body = struct.pack("!BBHHHd", 8, 0, 0, os.getpid() & 0xFFFF, number, time.monotonic())
    total = sum(struct.unpack("!%dH" % (len(body) // 2), body))
    total = (total >> 16) + (total & 0xFFFF)
    return body[:2] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + body[4:]
times, order, number, due = {}, [], 0, time.monotonic()
while number < count or time.monotonic() < due + 1:
    now = time.monotonic()
    if number < count and now >= due:
        ping.send(message(number))
        number, due = number + 1, due + pause
        continue
    wait = (due - now) if number < count else due + 1 - now
    if select.select([ping], [], [], max(0, wait))[0]:
        data = ping.recv(2000)[20:]
        if data[0] == 0 and struct.unpack("!H", data[4:6])[0] == os.getpid() & 0xFFFF:
            answered, sent = struct.unpack("!Hd", data[6:16])
            order.append(answered)
            times.setdefault(answered, time.monotonic() - sent)
found = list(times.values()) or [-1]
print(len(times), len(order), statistics.median(found), min(found), max(found),
      sum(a > b for a, b in zip(order, order[1:])))
"""


class Pings:
    """What came back of so many pings; `median_s` is -1 when none did."""

    def __init__(self, text: str) -> None:
        answered, answers, median, least, most, overtaken = text.split()
        self.answered, self.answers, self.overtaken = int(answered), int(answers), int(overtaken)
        self.median_s, self.least_s, self.most_s = float(median), float(least), float(most)


class TestLab:
    """A lab of one file. A context manager; `davit` runs `davit lab …` for it."""

    __test__ = False

    def __init__(self, text: str, *, environment: dict[str, str] | None = None) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="dvl-", dir="/var/tmp"))
        self.root = self.base / "labs"
        self.file = self.base / "lab.yml"
        self.file.write_text(text)
        self._environment = environment or {}

    @property
    def environment(self) -> dict[str, str]:
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("DOCKER_", "DAVIT_"))}
        return clean | {"DAVIT_LAB_ROOT": str(self.root)} | self._environment

    def command(self, *arguments: str) -> list[str]:
        return [str(DAVIT), "lab", *arguments]

    def davit(self, *arguments: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        return run(*self.command(*arguments), check=check, env=self.environment, cwd=ROOT, **options)

    def __enter__(self) -> TestLab:
        try:
            self.davit("up", str(self.file))
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def status(self) -> dict[str, Any]:
        result: dict[str, Any] = json.loads(self.davit("status", "--json", check=False).stdout)
        return result

    def exec(self, node: str, *command: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        return self.davit("exec", node, *command, check=check, **options)

    def docker(self, *arguments: str, node: str = "m1", check: bool = True) -> subprocess.CompletedProcess[str]:
        environment = self.environment | {"DOCKER_HOST": self.status()["nodes"][node]["docker_host"]}
        return run("docker", *arguments, check=check, env=environment, timeout=60)

    def import_busybox(self) -> None:
        self.docker("import", "-c", 'CMD ["sh"]', str(busybox_tar(self.base / "busybox.tar")), "busybox:latest")

    def ping(self, source: str, target: str, count: int = 3, pause_s: float = 0.01) -> Pings:
        """Pings from a node to another, by its name."""
        address = self.exec(source, "getent", "hosts", target).stdout.split()[0]
        return self.ping_address(source, address, count, pause_s)

    def ping_address(self, source: str, address: str, count: int = 3, pause_s: float = 0.01) -> Pings:
        return Pings(self.exec(source, "python3", "-c", PING, address, str(count), str(pause_s)).stdout)

    def pids(self, word: str) -> set[int]:
        """The lab's processes with a word in their command line."""
        found = set()
        for entry in Path("/proc").iterdir():
            try:
                command = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
            except OSError:
                continue
            if str(self.root).encode() in command and word.encode() in command:
                found.add(int(entry.name))
        return found

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if self.root.exists() and any(self.root.iterdir()):
                self.davit("down")
        finally:
            shutil.rmtree(self.base, ignore_errors=True)


def busybox_archive(path: Path) -> Path:
    """busybox:latest as `docker save` writes it, without an engine."""
    layer = busybox_tar(path.with_suffix(".layer")).read_bytes()
    digest = hashlib.sha256(layer).hexdigest()
    config = {"architecture": ARCHITECTURES[os.uname().machine], "os": "linux", "config": {"Cmd": ["sh"]},
              "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]}}  # fmt: skip
    manifest = [{"Config": "config.json", "RepoTags": ["busybox:latest"], "Layers": ["layer.tar"]}]
    with tarfile.open(path, "w") as tar:
        for name, data in (
            ("config.json", json.dumps(config).encode()), ("layer.tar", layer),
            ("manifest.json", json.dumps(manifest).encode()),
        ):  # fmt: skip
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


def require_root() -> None:
    """A laptop without root or client skips; continuous integration fails."""
    missing = [what for what, there in (("root", os.geteuid() == 0), ("docker", shutil.which("docker"))) if not there]
    if missing and os.environ.get("CI"):
        pytest.fail(f"labs need {', '.join(missing)}")
    if missing:
        pytest.skip(f"labs need {', '.join(missing)}")
