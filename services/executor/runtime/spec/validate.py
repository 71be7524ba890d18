"""Checks of a spec, before anything is made: an ordered tuple of small named ones. What they refuse, they name.

Source: OCI runtime-spec 1.2; what runc refuses too, it refuses for the same reason.
"""

from __future__ import annotations

import os

from services.executor.runtime.errors import InvalidSpec, NotSupported
from services.executor.runtime.spec import capabilities
from services.executor.runtime.steps import hooks, scheduling, sysctl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from services.executor.runtime.cgroups.interface import CgroupBackend
    from services.executor.runtime.spec.plan import ContainerPlan, ProcessPlan

_PERSONALITIES = {"LINUX", "LINUX32"}


def _version(plan: ContainerPlan) -> None:
    version = str(plan.spec.get("ociVersion") or "")
    if not version.startswith("1."):
        raise InvalidSpec("ociVersion", f'"{version}" is not a version 1 of the runtime specification')


def _platform(plan: ContainerPlan) -> None:
    for name in ("windows", "solaris", "vm", "zos"):
        if plan.spec.get(name):
            raise NotSupported(name, "this runtime is for Linux")


def _hostname(plan: ContainerPlan) -> None:
    for name in ("hostname", "domainname"):
        if plan.spec.get(name) and "uts" not in plan.namespaces.new and "uts" not in plan.namespaces.paths:
            raise InvalidSpec(name, "cannot be set without a uts namespace")


def _root(plan: ContainerPlan) -> None:
    if plan.overlay is None and not os.path.isdir(plan.root_path):
        raise InvalidSpec("root.path", f"{plan.root_path} is not a directory")


def _mount_namespace(plan: ContainerPlan) -> None:
    if plan.namespaces.has("mount"):
        return
    for name in ("maskedPaths", "readonlyPaths"):
        if plan.linux.get(name):
            raise InvalidSpec(f"linux.{name}", "unable to restrict paths without a private mount namespace")


def _restricted_paths(plan: ContainerPlan) -> None:
    for name in ("maskedPaths", "readonlyPaths"):
        for i, path in enumerate(plan.linux.get(name) or []):
            if not str(path).startswith("/"):
                raise InvalidSpec(f"linux.{name}[{i}]", f"{path!r} is not an absolute path")


def _sysctl(plan: ContainerPlan) -> None:
    wanted = plan.linux.get("sysctl") or {}
    if wanted:
        sysctl.validate(wanted, plan.namespaces.new | set(plan.namespaces.paths))


def _hooks(plan: ContainerPlan) -> None:
    hooks.validate(plan.hooks)


def _personality(plan: ContainerPlan) -> None:
    wanted = plan.linux.get("personality")
    if not wanted:
        return
    if wanted.get("domain") not in _PERSONALITIES:
        raise InvalidSpec("linux.personality.domain", f'unknown domain "{wanted.get("domain")}"')
    if wanted.get("flags"):
        raise NotSupported("linux.personality.flags", "additional flags are not supported")


def _intel_rdt(plan: ContainerPlan) -> None:
    if plan.linux.get("intelRdt") and not os.path.exists("/sys/fs/resctrl/schemata"):
        raise NotSupported("linux.intelRdt", "resctrl is not mounted on this machine")
    if plan.linux.get("intelRdt"):
        raise NotSupported("linux.intelRdt", "this runtime does not manage resctrl")


def _net_devices(plan: ContainerPlan) -> None:
    if not plan.linux.get("netDevices"):
        return
    if not plan.namespaces.is_private("network"):
        raise InvalidSpec("linux.netDevices", "unable to move network devices without a private NET namespace")
    from services.executor.runtime.steps import netdevices

    netdevices.validate(plan.linux["netDevices"])


def _mount_label(plan: ContainerPlan) -> None:
    if plan.linux.get("mountLabel") and not os.path.exists("/sys/fs/selinux/enforce"):
        raise NotSupported(
            "linux.mountLabel", "selinux label is specified in config, but selinux is disabled or not supported"
        )


def _process(plan: ContainerPlan) -> None:
    process(plan.process)


def process(plan: ProcessPlan) -> None:
    """Check one process, a container's first or an exec."""
    capabilities.validate(plan.capabilities)
    scheduling.validate(plan.scheduler, plan.ioprio)
    if plan.oom_score_adj is not None and not -1000 <= plan.oom_score_adj <= 1000:
        raise InvalidSpec("process.oomScoreAdj", "must be between -1000 and 1000")
    if plan.apparmor not in {"", "unconfined"} and not os.path.exists("/sys/kernel/security/apparmor"):
        raise NotSupported("process.apparmorProfile", "apparmor is not enabled on this machine")
    if plan.selinux and not os.path.exists("/sys/fs/selinux/enforce"):
        raise NotSupported("process.selinuxLabel", "selinux is not enabled on this machine")
    if plan.umask is not None and not 0 <= plan.umask <= 0o777:
        raise InvalidSpec("process.user.umask", "must be between 0 and 0777")


CHECKS: tuple[Callable[[ContainerPlan], None], ...] = (
    _version,
    _platform,
    _root,
    _hostname,
    _mount_namespace,
    _restricted_paths,
    _sysctl,
    _hooks,
    _personality,
    _intel_rdt,
    _net_devices,
    _mount_label,
    _process,
)


def container(plan: ContainerPlan, groups: CgroupBackend) -> None:
    """Run all checks.

    Raises:
        InvalidSpec, NotSupported: with the field.
    """
    for check in CHECKS:
        check(plan)
    groups.validate(plan.linux.get("resources") or {})
