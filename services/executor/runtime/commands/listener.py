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
    from typing import Any


def send(path: str, metadata: str, state: dict[str, Any], pid: int, fd: int) -> None:
    """Send the descriptor of process `pid`'s filter to whoever listens at `path`, and close it here.

    Raises:
        RuntimeFailure: nobody listens at linux.seccomp.listenerPath.
    """
    message = {
        "ociVersion": state["ociVersion"],
        "fds": ["seccompFd"],
        "pid": pid,
        "metadata": metadata,
        "state": state,
    }
    socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        socket.connect(path)
        rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, fd.to_bytes(4, "little"))
        socket.sendmsg([jsonlite.dumps(message).encode()], [rights])
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise RuntimeFailure(
            f"failed to connect with seccomp agent specified in linux.seccomp.listenerPath {path}: {reason}",
            step="seccomp",
        ) from None
    finally:
        socket.close()
        os.close(fd)
