"""What the tests of attacks share: davit-runc with bundles that are written to, and programs built for the attacker."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from services.executor.runtime.seccomp import default as seccomp_default
from services.executor.runtime.seccomp.profile import resolve_profile
from services.executor.runtime.spec import defaults
from tests.conformance.runtime.conftest import BUSYBOX, Bundle, Runtime, commands
from tests.conftest import missing


def ours(directory: Path) -> Runtime:
    """davit-runc with its root in `directory`; skips without root or busybox."""
    if os.geteuid() != 0:
        missing("root")
    if not BUSYBOX.exists():
        missing("busybox-static")
    command = commands()["davit-runc"]
    assert command is not None
    return Runtime("davit-runc", command, directory)


def as_docker(bundle: Bundle, *, seccomp: bool = True) -> Bundle:
    """Give a bundle what Docker gives a container by default."""
    spec = defaults.default_spec()
    spec["process"]["args"] = bundle.process["args"]
    spec["hostname"] = "hardening"
    if seccomp:
        names = spec["process"]["capabilities"]["bounding"]
        machine = os.uname()
        spec["linux"]["seccomp"] = resolve_profile(
            seccomp_default.default_profile(), names, machine.release, machine.machine
        )
    bundle.spec = spec
    return bundle


def build(source: str, target: Path) -> Path:
    """A static program from C; skips without a compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        missing("a C compiler")
    code = target.with_suffix(".c")
    code.write_text(source)
    subprocess.run([compiler, "-static", "-O1", "-w", "-o", str(target), str(code)], check=True)
    code.unlink()
    return target
