"""What a test run may leave behind on a machine, looked up in the kernel."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from contextlib import suppress
from pathlib import Path

import psutil

CHECKOUT = Path(__file__).resolve().parents[2]

# A container's control groups are below these names, on every hierarchy.
_CGROUP_NAMES = ("davit",)


def inventory(*, whole_machine: bool) -> dict[str, set[str]]:
    """Everything of the kinds that the engine makes, by kind, as it is now.

    Args:
        whole_machine: Also what cannot be told apart from what others make at the same time; for a machine on which
            nothing else runs.
    """
    ours = {"process": _processes(), "file beside the sources": _files()}
    if not whole_machine:
        return ours
    return {
        **ours,
        "mount": _mounts(),
        "cgroup": _cgroups(),
        "link": _names("ip", "-j", "link", key="ifname"),
        "network namespace": _names("ip", "-j", "netns", key="name"),
        "nft table": _tables(),
    }


def _processes() -> set[str]:
    """Processes below this test run, whoever their parent is now."""
    found = set()
    for process in psutil.process_iter(["status"]):
        with contextlib.suppress(psutil.Error):
            ours = process.environ().get(MARK) == str(os.getpid()) and process.pid != os.getpid()
            if ours and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.add(f"{process.pid} {' '.join(process.cmdline())[:120]}")
    return found


def processes_of(directory: Path) -> list[int]:
    """Pids of what runs with a path below the directory in its command line or its environment."""
    found = []
    for process in psutil.process_iter(["status"]):
        with contextlib.suppress(psutil.Error):
            said = [*process.cmdline(), *process.environ().values()]
            gone = process.info["status"] in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
            if process.pid != os.getpid() and not gone and any(str(directory) in text for text in said):
                found.append(process.pid)
    return found


def runs(pid: int) -> bool:
    """Whether a process does, and is not merely unreaped."""
    try:
        return bool(psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD))
    except psutil.NoSuchProcess:
        return False


# A variable of every process below this test run, so that others' processes are not taken for ours.
MARK = "LABORATORY_RUN"


def _files() -> set[str]:
    """What lies in the checkout's topmost directory; tools' own caches begin with a dot."""
    return {path.name for path in CHECKOUT.iterdir() if not path.name.startswith(".")}


def _mounts() -> set[str]:
    return {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()}


def remove_groups(name: str) -> None:
    """Remove an engine's control groups, which have no process any more, on every hierarchy."""
    root = Path("/sys/fs/cgroup")
    for top in (*root.glob(f"*/{name}"), root / name):
        below = sorted((path for path in top.rglob("*") if path.is_dir()), reverse=True)
        for path in (*below, top):
            with suppress(OSError):
                path.rmdir()


def _cgroups() -> set[str]:
    root = Path("/sys/fs/cgroup")
    patterns = [pattern for name in _CGROUP_NAMES for pattern in (f"{name}*/*", f"{name}-*")]
    paths = [path for pattern in patterns for path in (*root.glob(f"*/{pattern}"), *root.glob(pattern))]
    return {str(path) for path in paths if path.is_dir()}


def _names(*command: str, key: str) -> set[str]:
    output = _output(*command)
    return {str(entry[key]) for entry in json.loads(output)} if output.strip() else set()


def _tables() -> set[str]:
    return set(_output("nft", "list", "tables").splitlines())


def _output(*command: str) -> str:
    """What a tool says; nothing when it is missing or refuses."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=10).stdout
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return ""
