"""What a test run may leave behind on a machine, looked up in the kernel."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

# A container's control groups are below these names, on every hierarchy.
_CGROUP_NAMES = ("davit",)


def inventory(*, whole_machine: bool) -> dict[str, set[str]]:
    """Everything of the kinds that the engine makes, by kind, as it is now.

    Args:
        whole_machine: Also what cannot be told apart from what others make at the same time; for a machine on which
            nothing else runs.
    """
    if not whole_machine:
        return {"process": _processes()}
    return {
        "process": _processes(),
        "mount": _mounts(),
        "cgroup": _cgroups(),
        "link": _names("ip", "-j", "link", key="ifname"),
        "network namespace": _names("ip", "-j", "netns", key="name"),
        "nft table": _tables(),
    }


def _processes() -> set[str]:
    """Processes below this test run, whoever their parent is now."""
    found = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            environment = (entry / "environ").read_bytes()
            state = (entry / "stat").read_text().rpartition(") ")[2][0]
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue
        if MARK.encode() in environment and state != "Z":
            found.add(f"{entry.name} {command[:120]}")
    return found


# In the environment of every process below this test run, so that others' processes are not taken for ours.
MARK = f"LABORATORY_RUN={os.getpid()}"


def _mounts() -> set[str]:
    return {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()}


def _cgroups() -> set[str]:
    root = Path("/sys/fs/cgroup")
    paths = [path for name in _CGROUP_NAMES for path in (*root.glob(f"*/{name}*/*"), *root.glob(f"{name}*/*"))]
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
