"""What must be so before anything is started: each check raises with a sentence that says what to do."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from shared.errors import Conflict, Forbidden, Unsupported

NAMESPACES = ("mnt", "pid", "net", "ipc", "uts")
_NETLINK_NETFILTER = 12
# Longest path of a unix socket (108 bytes with the final NUL, unix(7)), less the longest name made below it.
LONGEST_RUN_DIR = 107 - len("/s/0123456789ab.sock")


def check_root() -> None:
    if os.geteuid() != 0:
        raise Forbidden("the engine must run as root: it makes namespaces, mounts and control groups (try sudo)")


def check_kernel() -> None:
    """Namespaces, overlayfs, control groups and nftables, which every container needs."""
    missing = [name for name in NAMESPACES if not Path(f"/proc/self/ns/{name}").exists()]
    if missing:
        raise Unsupported(f"this kernel has no {', '.join(missing)} namespaces (CONFIG_NAMESPACES and its parts)")
    if "\toverlay\n" not in Path("/proc/filesystems").read_text() and not _module_exists("overlay"):
        raise Unsupported("this kernel has no overlayfs (CONFIG_OVERLAY_FS): try modprobe overlay")
    if not any(" - cgroup" in line for line in Path("/proc/self/mountinfo").read_text().splitlines()):
        raise Unsupported(
            "no control group file system is mounted (see cgroups(7)): mount one at /sys/fs/cgroup "
            "(under ip netns exec, which hides it: use nsenter --net=/run/netns/NAME)"
        )
    try:
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER).close()
    except OSError as error:
        raise Unsupported("this kernel has no netfilter (CONFIG_NETFILTER, CONFIG_NF_TABLES)") from error


def _module_exists(name: str) -> bool:
    """Whether the kernel could load a module when it is first mounted."""
    release = os.uname().release
    return any(Path(f"/lib/modules/{release}").glob(f"kernel/fs/*/{name}.ko*"))


def check_paths(data_root: Path, run_dir: Path) -> None:
    """Directories that can be made, on file systems that can hold them."""
    if len(os.fsencode(run_dir)) > LONGEST_RUN_DIR:
        raise Conflict(f"the run directory {run_dir} is too long for unix sockets: at most {LONGEST_RUN_DIR} bytes")
    for path in (data_root, run_dir):
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o711)
        except OSError as error:
            raise Conflict(f"{path} cannot be made: {error.strerror}") from error
        if not os.access(path, os.W_OK):
            raise Conflict(f"{path} cannot be written to")
