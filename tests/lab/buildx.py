"""The real buildx, from Debian's packages: fetched once per machine and kept in a cache directory."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.lab.debian import CACHE, mirror

# The newest first; older ones lack what `docker compose build` needs of it.
SUITES = ("sid", "trixie")
PLUGIN = "usr/libexec/docker/cli-plugins/docker-buildx"


def buildx() -> Path | None:
    """The plugin's executable; None where it cannot be had."""
    CACHE.mkdir(parents=True, exist_ok=True)
    binary = CACHE / "docker-buildx"
    with (CACHE / "buildx.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not binary.exists():
            _fetch(binary)
    return binary if binary.exists() else None


def install_plugin(docker_config: Path) -> bool:
    """Let CLIs with this configuration directory find buildx; whether there is one."""
    binary = buildx()
    if binary is None:
        return False
    plugins = docker_config / "cli-plugins"
    plugins.mkdir(parents=True, exist_ok=True)
    link = plugins / "docker-buildx"
    if not link.exists():
        link.symlink_to(binary)
    return True


def _fetch(binary: Path) -> None:
    site = mirror()
    for suite in SUITES if site else ():
        with tempfile.TemporaryDirectory(prefix="buildx-", dir=CACHE) as work:
            if _from_suite(Path(work), site, suite, binary):
                return


def _from_suite(work: Path, site: str, suite: str, binary: Path) -> bool:
    (work / "sources.list").write_text(f"deb {site} {suite} main\n")
    for directory in ("lists/partial", "cache/archives/partial"):
        (work / directory).mkdir(parents=True)
    options = {
        "Dir::Etc::sourcelist": work / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::State::lists": work / "lists",
        "Dir::Cache": work / "cache",
        "APT::Sandbox::User": "root",
    }
    apt = ["apt-get", "-qq", *(word for name, value in options.items() for word in ("-o", f"{name}={value}"))]
    for command in ([*apt, "update"], [*apt, "download", "docker-buildx"]):
        if subprocess.run(command, cwd=work, check=False, capture_output=True).returncode != 0:
            return False
    package = next(work.glob("docker-buildx_*.deb"), None)
    if package is None:
        return False
    subprocess.run(["dpkg-deb", "-x", str(package), str(work / "root")], check=True)
    shutil.copy(work / "root" / PLUGIN, work / "docker-buildx")
    os.replace(work / "docker-buildx", binary)
    return True
