"""config.json (and what an order adds to it) as typed plans. Pure: everything wrong is found here, before anything
is made.

Source: OCI runtime-spec 1.2, config.md "Process".
"""

from __future__ import annotations

import os

from services.executor.runtime.errors import InvalidSpec
from services.executor.runtime.spec import mountplan
from services.executor.runtime.steps import devices, memorypolicy, rlimits, scheduling
from services.executor.runtime.steps.namespaces import Namespaces
from services.executor.runtime.steps.rootfs import Overlay

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


_MOST_ID = 2**31 - 1


class ProcessPlan:
    """How to run one process, the container's first or an exec.

    Attributes:
        user: "name", "uid:gid", … to look up in the rootfs; None when uid and gid are all there is.
        group_add: further groups by name or number, looked up as well.
        capabilities: the five sets; one that is absent is empty, so no capabilities at all when the spec has none.
        umask: None leaves the runtime's default of 0o022.
        stubbed: the program is executed by way of `execstub`.
        wait: it stops before execve until it is told to go on; else it runs at once.
        affinity: processors before and after it joins the control group; None each: all that are there.
        personality: of LINUX, LINUX32; memory_policy: where its memory is from. Both None when the spec has none.
        die_with_parent: it is killed when its parent is: there is nobody else to take its output or its end.
        seccomp: the filter, compiled by whoever has the time for it; None for no filter.
    """

    __slots__ = (
        "affinity",
        "apparmor",
        "args",
        "capabilities",
        "console_size",
        "cwd",
        "die_with_parent",
        "env",
        "gid",
        "group_add",
        "groups",
        "ioprio",
        "memory_policy",
        "no_new_privileges",
        "oom_score_adj",
        "personality",
        "rlimits",
        "scheduler",
        "seccomp",
        "selinux",
        "stubbed",
        "terminal",
        "uid",
        "umask",
        "user",
        "wait",
    )

    def __init__(
        self,
        process: dict[str, Any],
        *,
        user: str | None = None,
        group_add: list[str] | None = None,
        args_needed: bool = True,
    ) -> None:
        self.args = [str(arg) for arg in process.get("args") or []]
        if args_needed and not self.args:
            raise InvalidSpec("process.args", "must not be empty")
        self.env = [str(entry) for entry in process.get("env") or []]
        for entry in self.env:
            if entry.find("=") < 1 or "\0" in entry:
                raise InvalidSpec("process.env", f'invalid environment variable: "{entry}"')
        self.cwd = str(process.get("cwd") or "")
        if not os.path.isabs(self.cwd):
            raise InvalidSpec("process.cwd", "must be an absolute path" if self.cwd else "is required")
        self.terminal = bool(process.get("terminal"))
        size = process.get("consoleSize") or {}
        self.console_size = (int(size.get("height", 0)), int(size.get("width", 0)))
        identity = process.get("user") or {}
        self.uid = _id(identity.get("uid"), "uid")
        self.gid = _id(identity.get("gid"), "gid")
        self.groups = [_id(gid, "additionalGids") for gid in identity.get("additionalGids") or []]
        self.umask: int | None = identity.get("umask")
        self.user = user or None
        self.group_add = list(group_add or [])
        self.capabilities: dict[str, list[str]] = process.get("capabilities") or {}
        self.no_new_privileges = bool(process.get("noNewPrivileges"))
        self.oom_score_adj: int | None = process.get("oomScoreAdj")
        self.rlimits = rlimits.plan(process)
        self.scheduler: dict[str, Any] | None = process.get("scheduler")
        self.ioprio: dict[str, Any] | None = process.get("ioPriority")
        self.apparmor = str(process.get("apparmorProfile") or "")
        self.selinux = str(process.get("selinuxLabel") or "")
        self.affinity: tuple[list[int] | None, list[int] | None] = (None, None)
        self.personality: str | None = None
        self.memory_policy: memorypolicy.MemoryPolicy | None = None
        self.seccomp: Any = None
        self.stubbed = False
        self.wait = False
        self.die_with_parent = False

    def take_exec_affinity(self, process: dict[str, Any]) -> None:
        """`execCPUAffinity`, which is for processes that join a container, not for its first."""
        wanted = process.get("execCPUAffinity") or {}
        initial, final = (
            scheduling.processors(str(wanted[key]), f"process.execCPUAffinity.{key}") if wanted.get(key) else None
            for key in ("initial", "final")
        )
        self.affinity = (initial, final)

    def take_linux(self, linux: dict[str, Any]) -> None:
        """What all processes of a container share by inheriting it."""
        self.personality = (linux.get("personality") or {}).get("domain")
        self.memory_policy = memorypolicy.plan(linux.get("memoryPolicy"))

    def environment(self) -> dict[str, str]:
        """The variables; of several with one name the last counts."""
        return dict(entry.split("=", 1) for entry in self.env if "=" in entry)


def _id(value: Any, name: str) -> int:
    """An id that setresuid(2) does not take for "unchanged", which would be root."""
    number = int(value or 0)
    if not 0 <= number <= _MOST_ID:
        raise InvalidSpec(f"process.user.{name}", f"{number}: uids and gids must be in range 0-{_MOST_ID}")
    return number


class ContainerPlan:
    """How to make one container.

    Attributes:
        container_id: its name with the runtime.
        root_path: where the rootfs is, or will be mounted.
        overlay: layers to mount there, or None for a directory that is ready.
        cgroup_paths: controller -> directory of its own in that hierarchy; "" (or "unified") for v2. Filled when made.
        cgroup_fd: descriptor of the v2 directory to be born in, or None.
        pivot, new_keyring: false for `--no-pivot` and `--no-new-keyring`.
        mount_fallback: false for `--no-mount-fallback`.
        start_listener: a listening socket; who connects tells it, when the parent will be gone (`davit-runc create`).
        preserve_fds: how many descriptors from 3 on the container inherits.
    """

    __slots__ = (
        "bundle",
        "cgroup_fd",
        "cgroup_kind",
        "cgroup_paths",
        "container_id",
        "devices",
        "hooks",
        "linux",
        "mount_fallback",
        "mounts",
        "namespaces",
        "new_keyring",
        "overlay",
        "pivot",
        "preserve_fds",
        "process",
        "root_path",
        "spec",
        "start_listener",
    )

    def __init__(
        self,
        container_id: str,
        spec: dict[str, Any],
        bundle: str,
        *,
        overlay: dict[str, Any] | None = None,
        user: str | None = None,
        group_add: list[str] | None = None,
    ) -> None:
        self.container_id = container_id
        self.spec = spec
        self.bundle = bundle
        self.linux: dict[str, Any] = spec.get("linux") or {}
        self.process = ProcessPlan(spec.get("process") or {}, user=user, group_add=group_add)
        self.process.take_linux(self.linux)
        root = (spec.get("root") or {}).get("path")
        if not root:
            raise InvalidSpec("root.path", "is required")
        self.root_path = os.path.join(bundle, root)
        self.overlay = Overlay(overlay) if overlay else None
        self.namespaces = Namespaces(spec)
        self.mounts = mountplan.plan(spec, bundle)
        self.devices = devices.plan(spec)
        self.hooks: dict[str, list[dict[str, Any]]] = spec.get("hooks") or {}
        self.cgroup_paths: dict[str, str] = {}
        self.cgroup_kind = ""
        self.cgroup_fd: int | None = None
        self.pivot = True
        self.new_keyring = True
        self.mount_fallback = True
        self.start_listener: Any = None
        self.preserve_fds = 0

    def state(self, status: str, pid: int) -> dict[str, Any]:
        """The state that hooks get. Source: OCI runtime-spec 1.2, runtime.md "State"."""
        state = {
            "ociVersion": self.spec.get("ociVersion", "1.2.0"),
            "id": self.container_id,
            "status": status,
            "pid": pid,
            "bundle": self.bundle,
        }
        if self.spec.get("annotations"):
            state["annotations"] = self.spec["annotations"]
        return state
