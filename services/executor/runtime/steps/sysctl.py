"""Kernel parameters of the container's own namespaces. Source: OCI runtime-spec 1.2, config-linux.md "Sysctl"."""

from __future__ import annotations

import os

from services.executor.runtime.errors import InvalidSpec
from services.executor.runtime.kernel import calls as kernel

_IPC = frozenset(
    {
        "kernel.auto_msgmni",
        "kernel.msg_next_id",
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.sem_next_id",
        "kernel.shm_next_id",
        "kernel.shm_rmid_forced",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
    }
)


def validate(values: dict[str, str], new: set[str]) -> None:
    """Refuse parameters that would change the host.

    Args:
        values: name with dots or slashes -> value.
        new: namespaces that the container has to itself ("ipc", "network", "uts").
    """
    for name in values:
        field = f"linux.sysctl[{name}]"
        dotted = normalise(name)
        if dotted in _IPC or dotted.startswith("fs.mqueue."):
            _need(field, "ipc", new)
        elif dotted.startswith("net."):
            _need(field, "network", new)
        elif dotted in {"kernel.domainname", "kernel.hostname"}:
            _need(field, "uts", new)
            if dotted == "kernel.hostname":
                raise InvalidSpec(field, "use the hostname field instead")
        else:
            raise InvalidSpec(field, "is not in a separate kernel namespace")


def _need(field: str, namespace: str, new: set[str]) -> None:
    if namespace not in new:
        raise InvalidSpec(field, f"not allowed without a {namespace} namespace of the container's own")


def normalise(name: str) -> str:
    """The dotted form. With a slash before the first dot, slashes separate and dots belong to names (sysctl.d(5))."""
    slash, dot = name.find("/"), name.find(".")
    if slash == -1 or (dot != -1 and dot < slash):
        return name
    return name.replace(".", "\0").replace("/", ".").replace("\0", "/")


def apply(values: dict[str, str]) -> None:
    """Write them; the files of /proc/sys show the namespaces of the process that opens them."""
    for name, value in values.items():
        path = "/proc/sys/" + "/".join(part.replace("/", ".") for part in normalise(name).split("."))
        with kernel.reporting("write", path):
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, str(value).encode())
            finally:
                os.close(fd)
