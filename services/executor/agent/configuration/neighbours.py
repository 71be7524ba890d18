"""Namespaces that a container shares with another one of this node: PID, IPC with its shared memory, network.

Source: Docker Engine API 1.50, HostConfig.PidMode, IpcMode, NetworkMode; setns(2), open_tree(2).
"""

from __future__ import annotations

import os

from services.executor.agent.containers.failures import translated
from services.executor.agent.containers.records import NodeRecords
from services.executor.runtime.kernel import calls as kernel
from services.executor.runtime.kernel import mountcalls
from services.executor.runtime.kernel.threads import in_a_thread
from shared.contracts.node import ContainerOrder
from shared.errors import Conflict

SHARED_MEMORY = "/dev/shm"
# An IPC namespace that is nobody else's to join.
PRIVATE_MODES = frozenset({"", "none", "private"})

NOT_RUNNING = {
    "network": "cannot join network of a non running container: {id}",
    "pid": "container {id} is not running",
    "ipc": "can't join IPC of container {id}: container {id} is not running",
}


def joins_shared_memory(order: ContainerOrder) -> bool:
    """Whether a container gets another one's /dev/shm, and nothing of its own there."""
    host = order.host_config
    own = {mount.target for mount in order.mounts} | {target.rstrip("/") for target in host.tmpfs}
    return host.ipc_mode.startswith("container:") and SHARED_MEMORY not in own


class Neighbours:
    """The containers of this node, as others may join them."""

    def __init__(self, records: NodeRecords) -> None:
        self._records = records

    def pid(self, container_id: str, kind: str) -> int:
        """Of a running container whose namespace of a kind (``network``, ``pid``, ``ipc``) is to be joined.

        Raises:
            Conflict: It does not run, or keeps this namespace for itself; in Docker's words.
        """
        record = self._records.find(container_id)
        if record is None or record.status not in ("running", "paused"):
            raise Conflict(NOT_RUNNING[kind].format(id=container_id))
        if kind == "ipc" and record.order.host_config.ipc_mode in PRIVATE_MODES:
            raise Conflict(
                f"can't join IPC of container {container_id}: non-shareable IPC "
                "(hint: use IpcMode:shareable for the donor container)"
            )
        return record.pid

    def shared_memory(self, container_id: str) -> int:
        """A descriptor of the container's /dev/shm as a detached mount; the caller's to close."""
        namespace = os.open(f"/proc/{self.pid(container_id, 'ipc')}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        try:
            with translated():
                return _clone_from(namespace, SHARED_MEMORY)
        finally:
            os.close(namespace)


def _clone_from(namespace: int, path: str) -> int:
    """A detached copy of a mount of another mount namespace, which only a thread inside it can make.

    The thread ends there: one that came back would have lost its working directory and root.
    """

    def clone() -> int:
        kernel.unshare(kernel.CLONE_FS)  # setns(2) refuses a thread whose root others share
        kernel.setns(namespace, kernel.CLONE_NEWNS, "the container's mounts")
        return mountcalls.clone_tree_at(path, recursive=False)

    return in_a_thread(clone)
