"""Starting a further process in a running container, for execs and for health probes."""

from __future__ import annotations

import socket
from typing import Any

from services.executor.agent.configuration.oci import exec_process
from services.executor.agent.containers.failures import translated
from services.executor.agent.containers.lifecycle import Containers
from services.executor.agent.containers.records import ExecPaths, NodeRecord
from services.executor.agent.output.attach import AttachSpec
from services.executor.agent.shims.zygote import LaunchResult, Zygote
from shared.contracts.containers import ExecSpec
from shared.errors import Conflict


class ExecLauncher:
    """Makes the order of such a process, and has the zygote carry it out."""

    def __init__(self, containers: Containers, zygote: Zygote) -> None:
        self._containers = containers
        self._zygote = zygote

    def order(
        self,
        container_id: str,
        exec_id: str,
        spec: ExecSpec,
        paths: ExecPaths,
        console_size: list[int] | None = None,
    ) -> dict[str, Any]:
        """What the zygote is told; see `runtime.launch`.

        Raises:
            NotFound, Conflict: The container does not exist, does not run, or is paused.
        """
        record = self._containers.records.get(container_id)
        if record.status == "paused":
            raise Conflict(f"Container {container_id} is paused, unpause the container before exec")
        self._containers.live(container_id)
        return self._order(record, exec_id, spec, paths, console_size or [])

    def _order(
        self, record: NodeRecord, exec_id: str, spec: ExecSpec, paths: ExecPaths, console_size: list[int]
    ) -> dict[str, Any]:
        plan = exec_process(record.order, spec, console_size)
        order = {
            "id": record.id,
            "exec_id": exec_id,
            "pid": record.pid,
            "cgroup": self._containers.cgroup_path(record),
            "process": plan.process,
            "user": plan.user,
            "tty": spec.tty,
            "open_stdin": spec.attach_stdin,
            "stdin_once": spec.attach_stdin,
            "socket": str(paths.socket),
            "exit_file": str(paths.exit),
        }
        if record.runtime is not None:  # it has the filter in its state of the container
            order["runtime"] = record.runtime.order(self._containers.records.paths(record.id).directory)
        elif plan.seccomp:
            order["seccomp_bpf"] = plan.seccomp
        return order

    async def launch(self, order: dict[str, Any]) -> LaunchResult:
        with translated():
            result = await self._zygote.launch(order)
        result.client.path = order["socket"]
        return result

    async def launch_attached(self, order: dict[str, Any], spec: AttachSpec) -> tuple[LaunchResult, socket.socket]:
        """Also answers a connection to the process, attached from its first byte on."""
        ours, theirs = socket.socketpair()
        attach = [{"fd": 0, "stdin": spec.stdin, "stdout": spec.stdout, "stderr": spec.stderr}]
        try:
            with translated():
                result = await self._zygote.launch({**order, "attach": attach}, [theirs.fileno()])
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        result.client.path = order["socket"]
        return result, ours
