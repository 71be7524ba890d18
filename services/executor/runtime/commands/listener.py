"""The seccomp notify listener goes to the agent that config.json names, with the state of the container.

Source: OCI runtime-spec 1.2, config-linux.md "The Container Process State".
"""

from __future__ import annotations

import _socket
import os

from services.executor.runtime import jsonlite
from services.executor.runtime.errors import RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from services.executor.runtime.plan import ContainerPlan


def send(plan: ContainerPlan, pid: int, fd: int) -> None:
    """Send the descriptor, and close it here."""
    compiled = plan.process.seccomp
    message = {
        "ociVersion": plan.spec.get("ociVersion", "1.2.0"),
        "fds": ["seccompFd"],
        "pid": pid,
        "metadata": compiled.listener_metadata,
        "state": plan.state("creating", pid),
    }
    socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        socket.connect(compiled.listener_path)
        rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, fd.to_bytes(4, "little"))
        socket.sendmsg([jsonlite.dumps(message).encode()], [rights])
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise RuntimeFailure(f"linux.seccomp.listenerPath {compiled.listener_path}: {reason}", step="seccomp") from None
    finally:
        socket.close()
        os.close(fd)
