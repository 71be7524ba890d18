"""What keeps a container apart: namespaces, devices, capabilities, security options; refused with Docker's words.

Source: the reference engine's answers; Docker Engine API 1.50, HostConfig.
"""

from __future__ import annotations

import re

from services.executor.control.creation.subject import Subject, refuse, unsupported
from shared.docker import words

DEVICE_RULE = re.compile(r"^([acb]) ([0-9]+|\*):([0-9]+|\*) ([rwm]{1,3})$")
# capabilities(7), Linux 5.9 and later.
CAPABILITIES = frozenset(
    {
        "AUDIT_CONTROL", "AUDIT_READ", "AUDIT_WRITE", "BLOCK_SUSPEND", "BPF", "CHECKPOINT_RESTORE", "CHOWN",
        "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "IPC_LOCK", "IPC_OWNER", "KILL", "LEASE",
        "LINUX_IMMUTABLE", "MAC_ADMIN", "MAC_OVERRIDE", "MKNOD", "NET_ADMIN", "NET_BIND_SERVICE", "NET_BROADCAST",
        "NET_RAW", "PERFMON", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYSLOG", "SYS_ADMIN", "SYS_BOOT", "SYS_CHROOT",
        "SYS_MODULE", "SYS_NICE", "SYS_PACCT", "SYS_PTRACE", "SYS_RAWIO", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG",
        "WAKE_ALARM",
    }
)  # fmt: skip
# Options that ask for what is so anyway.
HARMLESS_SECURITY_OPTIONS = {"label": "disable", "apparmor": "unconfined", "systempaths": "unconfined"}
UNENFORCED = {
    "apparmor": "AppArmor profiles are not applied; only apparmor=unconfined is possible",
    "label": "SELinux labels are not applied; only label=disable is possible",
}
# sysctl(8) names that an IPC namespace has of its own.
IPC_SYSCTLS = frozenset(
    {
        "kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall", "kernel.shmmax",
        "kernel.shmmni", "kernel.shm_rmid_forced", "kernel.auto_msgmni", "kernel.msg_next_id", "kernel.sem_next_id",
        "kernel.shm_next_id",
    }
)  # fmt: skip
# Docker's spellings of a truth value.


def namespaces(subject: Subject) -> None:
    host = subject.host
    if host.ipc_mode not in ("", "none", "private", "shareable", "host") and not _joins(host.ipc_mode):
        raise refuse(f"invalid IPC mode: {host.ipc_mode}", "HostConfig.IpcMode")
    if host.pid_mode not in ("", "host") and not _joins(host.pid_mode):
        raise refuse(f"invalid PID mode: {host.pid_mode}", "HostConfig.PidMode")
    if host.uts_mode not in ("", "host"):
        raise refuse(f"invalid UTS mode: {host.uts_mode}", "HostConfig.UTSMode")
    if host.uts_mode == "host" and subject.config.hostname:
        raise refuse("conflicting options: hostname and the UTS mode", "HostConfig.UTSMode")
    if host.userns_mode not in ("", "host"):
        raise refuse(f"invalid USER mode: {host.userns_mode}", "HostConfig.UsernsMode")
    if host.cgroupns_mode not in ("", "private", "host"):
        raise refuse(f"invalid cgroup namespace mode: {host.cgroupns_mode}", "HostConfig.CgroupnsMode")


def _joins(mode: str) -> bool:
    kind, _, name = mode.partition(":")
    return kind == "container" and name != ""


def devices(subject: Subject) -> None:
    for device in subject.host.devices:
        target = device.path_in_container
        if target and not target.startswith("/"):
            raise refuse(f"invalid device path in the container: {target} is not absolute", "HostConfig.Devices")
        if set(device.cgroup_permissions) - set("rwm"):
            raise refuse(f"invalid device mode: {device.cgroup_permissions}", "HostConfig.Devices")
    for rule in subject.host.device_cgroup_rules:
        if not DEVICE_RULE.match(rule):
            raise refuse(f"invalid device cgroup rule format: '{rule}'", "HostConfig.DeviceCgroupRules")
    if subject.host.device_requests:
        raise unsupported("DeviceRequests", "there is no driver for device requests (GPUs)")


def capabilities(subject: Subject) -> None:
    for name, values in (("CapAdd", subject.host.cap_add), ("CapDrop", subject.host.cap_drop)):
        for value in values:
            word = value.upper().removeprefix("CAP_")
            if word != "ALL" and word not in CAPABILITIES:
                raise refuse(f'invalid {name}: unknown capability: "CAP_{word}"', f"HostConfig.{name}")


def security_options(subject: Subject) -> None:
    """Refuses also what Docker takes and drops without a word where the kernel has no such module."""
    for position, option in enumerate(subject.host.security_opt, start=1):
        name, separator, value = option.replace("=", ":", 1).partition(":")
        if option == "no-new-privileges" or (name == "no-new-privileges" and value in words.TRUE | words.FALSE):
            continue
        if name == "seccomp" and separator:
            continue
        if separator and value == HARMLESS_SECURITY_OPTIONS.get(name):
            continue
        if separator and name in UNENFORCED:
            raise unsupported("SecurityOpt", f"{option!r}: {UNENFORCED[name]}")
        raise refuse(f'invalid --security-opt {position}: "{option}"', "HostConfig.SecurityOpt")


def sysctls(subject: Subject) -> None:
    """Only what belongs to a namespace of the container's own; the rest would change the host."""
    host = subject.host
    for name in host.sysctls:
        if name in IPC_SYSCTLS or name.startswith("fs.mqueue."):
            shared = host.ipc_mode == "host" or _joins(host.ipc_mode)
            kind = "ipc"
        elif name.startswith("net."):
            shared = host.network_mode == "host" or _joins(host.network_mode)
            kind = "network"
        elif name == "kernel.domainname":
            shared, kind = host.uts_mode == "host", "uts"
        else:
            raise refuse(f'sysctl "{name}" is not in a separate kernel namespace', "HostConfig.Sysctls")
        if shared:
            raise refuse(
                f'sysctl "{name}" is not allowed without a {kind} namespace of the container\'s own',
                "HostConfig.Sysctls",
            )
