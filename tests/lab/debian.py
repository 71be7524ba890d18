"""Real Debian images, made once per machine with debootstrap and kept as tars in a cache directory."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.lab.engine import Engine
from tests.lab.netns import run

CACHE = Path(os.environ.get("DAVIT_TEST_CACHE", "/var/cache/davit-tests"))
SUITE = "bookworm"
PACKAGES = "redis-server,redis-tools,nginx-light"
INITS = "systemd-sysv,dbus,s6,tini,runit,procps"


def debian_tar(name: str = "redis-nginx", packages: str = PACKAGES) -> Path:
    """A root file system with some packages: Redis and nginx. Takes a minute the first time."""
    CACHE.mkdir(parents=True, exist_ok=True)
    tar = CACHE / f"{SUITE}-{name}.tar"
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not tar.exists():
            _make(tar, packages)
    return tar


def _make(tar: Path, packages: str) -> None:
    root = Path(tempfile.mkdtemp(prefix="debian-", dir=CACHE))
    try:
        command = ["debootstrap", "--variant=minbase", f"--include={packages}", SUITE, str(root)]
        # The mirror is the machine's own; debootstrap without one asks the default.
        site = mirror()
        subprocess.run([*command, site] if site else command, check=True, stdout=subprocess.DEVNULL)
        for path in ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man"):
            shutil.rmtree(root / path, ignore_errors=True)
        run("tar", "-C", str(root), "--xattrs", "-cf", str(tar) + ".part", "--exclude=./dev/*", ".")
        os.replace(str(tar) + ".part", tar)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def mirror() -> str:
    """Where this machine's apt gets its packages from."""
    result = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return next((line for line in result.stdout.splitlines() if line.startswith("http")), "")


def debian_image(engine: Engine) -> None:
    """debian-lab:latest in an engine."""
    if engine.docker("image", "inspect", "debian-lab", check=False).returncode != 0:
        engine.docker("import", "-c", 'CMD ["bash"]', str(debian_tar()), "debian-lab:latest", timeout_s=180)


def inits_image(engine: Engine) -> None:
    """inits-lab:latest: what people run as a container's first process."""
    if engine.docker("image", "inspect", "inits-lab", check=False).returncode != 0:
        tar = debian_tar("inits", INITS)
        engine.docker("import", "-c", 'CMD ["bash"]', str(tar), "inits-lab:latest", timeout_s=180)


def redis_image(engine: Engine) -> None:
    """redis-lab:latest: Redis that syncs every write."""
    if engine.docker("image", "inspect", "redis-lab", check=False).returncode != 0:
        engine.docker(
            "import",
            "-c", 'ENTRYPOINT ["redis-server", "--bind", "0.0.0.0", "--protected-mode", "no", "--appendonly", "yes", '
            '"--appendfsync", "always", "--dir", "/var/lib/redis"]',
            "-c", "EXPOSE 6379", str(debian_tar()), "redis-lab:latest", timeout_s=180,
        )  # fmt: skip


def nginx_image(engine: Engine) -> None:
    """nginx-lab:latest: nginx that serves /var/www/html on port 80."""
    if engine.docker("image", "inspect", "nginx-lab", check=False).returncode != 0:
        engine.docker(
            "import", "-c", 'CMD ["nginx", "-g", "daemon off;"]', "-c", "EXPOSE 80", str(debian_tar()),
            "nginx-lab:latest", timeout_s=180,
        )  # fmt: skip
