"""What a start needs around the runtime: files, mounts, network, then one order to the zygote.

::

    order ──► network namespace (warm pool, netlink) ─┐
          ──► hosts, hostname, resolv.conf, volumes  ─┼─► OCI spec ─► zygote ─► shim ─► init ─► execve
          ──► seccomp program (cached)               ─┘
"""

from __future__ import annotations

import contextlib
import os
import socket
from dataclasses import dataclass, field
from typing import Any

from services.executor.agent.configuration import mounts as mount_plan
from services.executor.agent.configuration.foreignspec import foreign_spec
from services.executor.agent.configuration.neighbours import SHARED_MEMORY, Neighbours, joins_shared_memory
from services.executor.agent.configuration.oci import SpecInput, oci_spec
from services.executor.agent.containers import netfiles
from services.executor.agent.containers.failures import translated
from services.executor.agent.containers.netfiles import ResolverDefaults
from services.executor.agent.containers.records import ContainerPaths, NodeRecord, NodeRecords
from services.executor.agent.facts import init_binary
from services.executor.agent.files.volumes import NodeVolumes
from services.executor.agent.layers.store import NodeLayers
from services.executor.agent.network import NodeNetwork, Sandbox
from services.executor.agent.output.attach import AttachSpec
from services.executor.agent.shims.runtimes import ForeignRuntime, Runtimes
from services.executor.agent.shims.zygote import LaunchResult, Zygote
from shared.contracts.node import ContainerOrder
from shared.errors import Internal

NETNS_FD_INDEX = 0


@dataclass(slots=True)
class Launched:
    """A process that runs. attached: our ends of the connections asked for, in order."""

    result: LaunchResult
    attached: list[socket.socket] = field(default_factory=list)


class Launcher:
    """Starts container processes."""

    def __init__(
        self,
        layers: NodeLayers,
        records: NodeRecords,
        zygote: Zygote,
        network: NodeNetwork,
        volumes: NodeVolumes,
        runtimes: Runtimes,
        *,
        cgroup_v2: bool,
        resolver: ResolverDefaults,
    ) -> None:
        self._resolver = resolver
        self._runtimes = runtimes
        self._layers = layers
        self._records = records
        self._neighbours = Neighbours(records)
        self._zygote = zygote
        self._network = network
        self._volumes = volumes
        self._cgroup_v2 = cgroup_v2

    async def launch(self, record: NodeRecord, attaches: list[AttachSpec]) -> Launched:
        """Start the container's process, with clients attached from its first byte on.

        Raises:
            DavitError: With Docker's text; `detail["exit_code"]` is 126, 127 or 128 where the command is to blame.
        """
        order = record.order
        paths = self._records.paths(order.id)
        await self._choose_runtime(record)
        await self._layers.ensure(order)
        mount_plan.check_sources(order.mounts)
        sandbox = await self._sandbox(order)
        ours: list[socket.socket] = []
        theirs: list[socket.socket] = []
        held = contextlib.ExitStack()
        try:
            self._write_files(order, paths)
            await self._volumes.prepare(order, self._layers.lower(order))
            with translated():
                request = self._request(order, paths, sandbox, record.cgroup)
                if record.runtime is not None:
                    _hand_over(request, record.runtime, order, paths)
                fds = [sandbox.netns_fd] if sandbox is not None else []
                if joins_shared_memory(order):
                    shared = self._neighbours.shared_memory(order.host_config.ipc_mode.partition(":")[2])
                    held.callback(os.close, shared)
                    request["mount_fds"] = {SHARED_MEMORY: len(fds)}
                    fds.append(shared)
                request["attach"] = []
                for spec in attaches:
                    one, other = socket.socketpair()
                    ours.append(one)
                    theirs.append(other)
                    request["attach"].append(
                        {
                            "fd": len(fds) + len(theirs) - 1,
                            "stdin": spec.stdin,
                            "stdout": spec.stdout,
                            "stderr": spec.stderr,
                        }
                    )
                result = await self._zygote.launch(request, [*fds, *(one.fileno() for one in theirs)])
                result.client.path = str(paths.socket)
        except BaseException:
            for one in ours:
                one.close()
            if sandbox is not None:
                await self._network.release(order.id)
            if record.runtime is not None:
                await record.runtime.delete(order.id)
            raise
        finally:
            held.close()
            for one in theirs:
                one.close()
        return Launched(result, ours)

    async def _choose_runtime(self, record: NodeRecord) -> None:
        """Find the runtime of an order, and write it down before it is used, for whoever finds what it leaves."""
        runtime = self._runtimes.find(record.order.runtime)
        if runtime != record.runtime:
            if record.runtime is not None:
                await record.runtime.delete(record.id)
            record.runtime = runtime
            self._records.save(record)

    async def _sandbox(self, order: ContainerOrder) -> Sandbox | None:
        if order.network_mode == "networks":
            return await self._network.prepare(order.id, order.attachments, order.host_config.dns)
        if order.network_mode == "none":
            return await self._network.empty(order.id)
        return None

    def _write_files(self, order: ContainerOrder, paths: ContainerPaths) -> None:
        paths.directory.mkdir(mode=0o710, parents=True, exist_ok=True)
        paths.upper.mkdir(mode=0o755, exist_ok=True)
        paths.work.mkdir(mode=0o700, exist_ok=True)
        # What tells of an earlier run: the exit record, and the socket of a shim that was killed.
        paths.exit.unlink(missing_ok=True)
        paths.socket.unlink(missing_ok=True)
        netfiles.write(order, paths, self._resolver)

    def _file_mounts(self, order: ContainerOrder, paths: ContainerPaths) -> list[dict[str, Any]]:
        owner = paths
        if order.network_mode.startswith("container:"):
            owner = self._records.paths(order.network_mode.partition(":")[2])
        taken = {mount.target for mount in order.mounts}
        return mount_plan.generated_files(owner, taken, read_only=order.host_config.readonly_rootfs)

    def _request(
        self, order: ContainerOrder, paths: ContainerPaths, sandbox: Sandbox | None, cgroup: str
    ) -> dict[str, Any]:
        mounts = mount_plan.user_mounts(order.mounts, self._layers.root, self._volumes.mount)
        init = init_binary() if order.host_config.init else ""
        if order.host_config.init and not init:
            raise Internal("--init needs a static init such as tini on the node, and there is none (HostConfig.Init)")
        plan = oci_spec(
            SpecInput(
                order=order,
                netns_path=f"/proc/self/fd/{{fd:{NETNS_FD_INDEX}}}" if sandbox is not None else None,
                joined_pid=self._neighbours.pid,
                # A file of /etc lies over what a user mounted there.
                mounts=mount_plan.by_depth(self._file_mounts(order, paths) + mounts),
                init_path=init,
                cgroup_v2=self._cgroup_v2,
                cgroup=cgroup,
            )
        )
        return {
            "id": order.id,
            "bundle": str(paths.directory),
            "spec": plan.spec,
            "user": plan.user,
            "rootfs": {"lower": self._layers.beneath(order), "upper": str(paths.upper), "work": str(paths.work)},
            "log": self._log(order, paths),
            "tty": order.config.tty,
            "open_stdin": order.config.open_stdin,
            "stdin_once": order.config.stdin_once,
            "socket": str(paths.socket),
            "exit_file": str(paths.exit),
        } | ({"seccomp_bpf": plan.seccomp} if plan.seccomp else {})

    def _log(self, order: ContainerOrder, paths: ContainerPaths) -> dict[str, Any]:
        options = {key: value for key, value in order.log_options.items() if not key.startswith("attr.")}
        attrs = {key[5:]: value for key, value in order.log_options.items() if key.startswith("attr.")}
        return {"driver": order.log_driver, "path": str(paths.log), "options": options, "attrs": attrs}


def _hand_over(request: dict[str, Any], runtime: ForeignRuntime, order: ContainerOrder, paths: ContainerPaths) -> None:
    """Make an order for davit's own runtime one for another."""
    request["spec"] = foreign_spec(order, request["spec"])
    request.pop("seccomp_bpf", None)
    request["runtime"] = runtime.order(paths.directory)
