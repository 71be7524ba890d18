"""Attacks by way of the file system: links and races at mount targets, masked paths, devices, /proc and /sys."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.runtime.conftest import Bundle, Runtime
from tests.integration.runtime.hardening import as_docker, ours

pytestmark = pytest.mark.root

RENAME_EXCHANGE = 2


@pytest.fixture
def oci(tmp_path: Path) -> Iterator[Runtime]:
    runtime = ours(tmp_path)
    yield runtime
    runtime.clean()


@pytest.fixture
def bundle(oci: Runtime) -> Bundle:
    return oci.bundle()


class Exchanger:
    """Exchanges two names as fast as it can, as a second container on the same volume would."""

    def __init__(self, one: Path, other: Path) -> None:
        self.paths = (os.fsencode(one), os.fsencode(other))
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        while not self.stopped.is_set():
            for _ in range(50):
                libc.renameat2(-100, self.paths[0], -100, self.paths[1], RENAME_EXCHANGE)
            self.stopped.wait(0.0002)

    def __enter__(self) -> Exchanger:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self.thread.join()


@pytest.mark.parametrize("kind", ["mount", "masked", "readonly"])
def test_a_target_that_turns_into_a_link_leads_nowhere_else(
    oci: Runtime, bundle: Bundle, tmp_path: Path, kind: str
) -> None:
    """CVE-2021-30465 and CVE-2019-19921: between check and mount the target becomes a link to the host."""
    host = tmp_path / "host"
    host.mkdir()
    (host / "file").write_text("the host's")
    volume = tmp_path / "volume"
    (volume / "target").mkdir(parents=True)
    (volume / "link").symlink_to(f"/../../../../../../../../..{host}")
    bundle.spec["mounts"].append({"destination": "/vol", "source": str(volume), "options": ["bind"]})
    if kind == "mount":
        bundle.spec["mounts"].append(
            {"destination": "/vol/target", "type": "tmpfs", "source": "attack", "options": ["mode=711"]}
        )
    else:
        bundle.linux["maskedPaths" if kind == "masked" else "readonlyPaths"].append("/vol/target")
    bundle.shell("cut -d' ' -f5 /proc/self/mountinfo")
    outcomes = {"refused": 0, "mounted": 0}
    with Exchanger(volume / "target", volume / "link"):
        for _ in range(25):
            result = oci.run(bundle)
            outcomes["mounted" if result.code == 0 else "refused"] += 1
            # A link may be followed beneath the rootfs; what it must not do is to lead out of it.
            outside = [line for line in result.lines if line.startswith(str(host)) and kind != "mount"]
            assert not outside, result
            assert (host / "file").read_text() == "the host's"
            assert os.listdir(host) == ["file"]
    assert outcomes["mounted"] > 0
    assert mounts(tmp_path) == []


def mounts(directory: Path) -> list[str]:
    """Mount points of the host in the test's directory; elsewhere others may be at work."""
    found = (line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())
    return sorted(path for path in found if path.startswith(str(directory)))


def test_a_masked_path_that_is_a_link_leaves_the_host_alone(oci: Runtime, bundle: Bundle, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("kept")
    (bundle.rootfs / "link").symlink_to(secret)
    (bundle.rootfs / "up").symlink_to(f"../../../../../../../..{secret}")
    bundle.linux["maskedPaths"] += ["/link", "/up"]
    oci.output(bundle, "true")
    assert secret.read_text() == "kept"
    assert mounts(tmp_path) == []


def test_devices_are_not_made_through_links(oci: Runtime, bundle: Bundle, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    bundle.spec["mounts"] = [mount for mount in bundle.spec["mounts"] if not mount["destination"].startswith("/dev")]
    (bundle.rootfs / "dev").rmdir()
    (bundle.rootfs / "dev").symlink_to(outside)
    bundle.linux["devices"] = [{"path": "/dev/made", "type": "c", "major": 1, "minor": 3, "fileMode": 0o666}]
    oci.run(bundle)
    assert os.listdir(outside) == []


def test_a_proc_that_is_not_procfs_is_refused(oci: Runtime, bundle: Bundle) -> None:
    """CVE-2019-16884: with a fake /proc, writes that restrict the process would go to the attacker's files."""
    bundle.spec["mounts"] = [mount for mount in bundle.spec["mounts"] if mount["destination"] != "/proc"]
    bundle.spec["mounts"].append({"destination": "/proc", "type": "tmpfs", "source": "fake"})
    assert oci.run(bundle).code != 0


@pytest.mark.parametrize("target", ["/proc/self", "/proc/sys", "/proc/self/attr", "/sys/../proc/self"])
def test_nothing_is_mounted_over_the_inside_of_proc(oci: Runtime, bundle: Bundle, target: str) -> None:
    bundle.spec["mounts"].append({"destination": target, "type": "tmpfs", "source": "fake"})
    assert oci.run(bundle).code != 0


WRITES = (
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/modprobe",
    "/proc/sys/vm/drop_caches",
    "/proc/sysrq-trigger",
    "/proc/irq/default_smp_affinity",
    "/sys/kernel/uevent_helper",
    "/sys/class/net/lo/mtu",
    "/sys/fs/cgroup/pids/pids.max",
)


def test_what_is_the_machines_cannot_be_written(oci: Runtime, bundle: Bundle) -> None:
    as_docker(bundle)
    script = "; ".join(f"( : > {path} ) 2>/dev/null && echo {path}" for path in WRITES)
    bundle.shell(f"{script}; mount -o remount,rw /proc/sys 2>/dev/null && echo remounted; echo end")
    assert oci.output(bundle) == "end"


def test_what_is_masked_cannot_be_read_or_uncovered(oci: Runtime, bundle: Bundle) -> None:
    as_docker(bundle)
    paths = " ".join(bundle.linux["maskedPaths"])
    script = f"""
for p in {paths}; do
    [ -e $p ] || continue
    umount $p 2>/dev/null && echo uncovered $p
    if [ -d $p ]; then ls -A $p; else wc -c < $p | grep -v '^0$'; fi
done
echo end
"""
    assert oci.output(bundle, script) == "end"


class TestTerminals:
    def test_ptmx_is_the_containers_own(self, oci: Runtime, bundle: Bundle) -> None:
        as_docker(bundle)
        before = os.listdir("/dev/pts")
        script = "readlink /dev/ptmx; exec 5<>/dev/ptmx && ls /dev/pts"
        assert oci.output(bundle, script).split() == ["pts/ptmx", "0", "ptmx"]
        assert os.listdir("/dev/pts") == before

    def test_a_console_that_is_a_link_is_not_followed(self, oci: Runtime, bundle: Bundle, tmp_path: Path) -> None:
        """The terminal is mounted on /dev/console, which an image may have made a link."""
        victim = tmp_path / "victim"
        victim.write_text("kept")
        bundle.spec["mounts"] = [mount for mount in bundle.spec["mounts"] if mount["destination"] != "/dev"]
        (bundle.rootfs / "dev" / "pts").mkdir()
        (bundle.rootfs / "dev" / "shm").mkdir()
        (bundle.rootfs / "dev" / "console").symlink_to(victim)
        bundle.process["terminal"] = True
        bundle.shell("echo hello > /dev/console")
        with_terminal(oci, bundle, tmp_path)
        assert victim.read_text() == "kept"
        assert mounts(tmp_path) == []


def with_terminal(oci: Runtime, bundle: Bundle, directory: Path) -> Any:
    """Run to the end with a terminal whose other end we take."""
    import socket

    path = str(directory / "c")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(path)
        server.listen(1)
        server.settimeout(20)
        masters: list[int] = []

        def take() -> None:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                masters.extend(socket.recv_fds(connection, 4096, 1)[1])

        thread = threading.Thread(target=take)
        thread.start()
        bundle.write()
        container = oci.new_id()
        result = oci.call("create", "-b", str(bundle.directory), "--console-socket", path, container)
        if result.code == 0:
            oci.call("start", container)
            oci.reaches(container, "stopped")
        else:
            server.shutdown(socket.SHUT_RDWR)
        thread.join()
        for fd in masters:
            os.close(fd)
        return result
