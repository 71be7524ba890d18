"""The agent's own mount namespace: what it mounts for a moment never reaches the host.

Source: mount_namespaces(7). Slave propagation, so that what the host mounts later is seen here.
"""

from __future__ import annotations

from services.executor.runtime import kernel, mountcalls


def enter_private_mount_namespace() -> None:
    """Leave the host's mount namespace for a copy of it. Call before the process has threads that mount."""
    kernel.unshare(kernel.CLONE_NEWNS)
    mountcalls.mount(None, "/", None, mountcalls.MS_REC | mountcalls.MS_SLAVE)
