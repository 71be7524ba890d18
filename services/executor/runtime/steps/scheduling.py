"""CPU and I/O priority of the container's process, and the processors it may run on.

Source: OCI runtime-spec 1.2, config.md "scheduler", "ioPriority", "execCPUAffinity"; sched_setattr(2), ioprio_set(2),
sched_setaffinity(2).
"""

from __future__ import annotations

import errno
import os

from services.executor.runtime.errors import InvalidSpec, KernelFailure
from services.executor.runtime.kernel import calls as kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

POLICIES = {
    "SCHED_OTHER": 0,
    "SCHED_FIFO": 1,
    "SCHED_RR": 2,
    "SCHED_BATCH": 3,
    "SCHED_ISO": 4,
    "SCHED_IDLE": 5,
    "SCHED_DEADLINE": 6,
}
SCHEDULER_FLAGS = {
    "SCHED_FLAG_RESET_ON_FORK": 0x01,
    "SCHED_FLAG_RECLAIM": 0x02,
    "SCHED_FLAG_DL_OVERRUN": 0x04,
    "SCHED_FLAG_KEEP_POLICY": 0x08,
    "SCHED_FLAG_KEEP_PARAMS": 0x10,
    "SCHED_FLAG_UTIL_CLAMP_MIN": 0x20,
    "SCHED_FLAG_UTIL_CLAMP_MAX": 0x40,
}
#: as many as any kernel is built for (CONFIG_NR_CPUS)
_MOST_PROCESSORS = 8192
IO_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}


def validate(scheduler: dict[str, Any] | None, ioprio: dict[str, Any] | None) -> None:
    """Refuse words and numbers that the kernel would not take."""
    if scheduler is not None:
        if scheduler.get("policy") not in POLICIES:
            raise InvalidSpec("process.scheduler.policy", f'unknown policy "{scheduler.get("policy")}"')
        for flag in scheduler.get("flags") or []:
            if flag not in SCHEDULER_FLAGS:
                raise InvalidSpec("process.scheduler.flags", f'unknown flag "{flag}"')
        if not -20 <= int(scheduler.get("nice") or 0) <= 19:
            raise InvalidSpec("process.scheduler.nice", "must be between -20 and 19")
        policy = scheduler["policy"]
        if scheduler.get("priority") and policy not in {"SCHED_FIFO", "SCHED_RR"}:
            raise InvalidSpec("process.scheduler.priority", "only for SCHED_FIFO and SCHED_RR")
        timed = any(scheduler.get(name) for name in ("runtime", "deadline", "period"))
        if timed and policy != "SCHED_DEADLINE":
            raise InvalidSpec("process.scheduler.runtime", "runtime, deadline and period are for SCHED_DEADLINE only")
    if ioprio is not None:
        if ioprio.get("class") not in IO_CLASSES:
            raise InvalidSpec("process.ioPriority.class", f'unknown class "{ioprio.get("class")}"')
        if not 0 <= int(ioprio.get("priority") or 0) <= 7:
            raise InvalidSpec("process.ioPriority.priority", "must be between 0 and 7")


def apply(scheduler: dict[str, Any] | None, ioprio: dict[str, Any] | None) -> None:
    """Set both for the calling process; inherited across execve."""
    if scheduler is not None:
        apply_scheduler(scheduler, 0)
    if ioprio is not None:
        kernel.ioprio_set(IO_CLASSES[ioprio["class"]] << 13 | int(ioprio.get("priority") or 0))


def apply_scheduler(scheduler: dict[str, Any], pid: int) -> None:
    """Set it for a process; 0 is the calling one."""
    attributes = kernel.SchedulingAttributes(
        policy=POLICIES[scheduler["policy"]],
        flags=sum({SCHEDULER_FLAGS[flag] for flag in scheduler.get("flags") or []}),
        nice=int(scheduler.get("nice") or 0),
        priority=int(scheduler.get("priority") or 0),
        runtime=int(scheduler.get("runtime") or 0),
        deadline=int(scheduler.get("deadline") or 0),
        period=int(scheduler.get("period") or 0),
    )
    try:
        kernel.sched_setattr(attributes, pid)
    except KernelFailure as failure:
        # sched_setattr(2): refused to a deadline policy whose process may not run on all of the machine's processors
        if failure.errno == errno.EPERM and len(os.sched_getaffinity(pid)) < (os.cpu_count() or 1):
            failure.message += ": process scheduler can't be used together with AllowedCPUs (linux.resources.cpu.cpus)"
            failure.args = (failure.message,)
        raise


def processors(text: str, field: str) -> list[int]:
    """The kernel's list format, "0-2,7".

    Raises:
        InvalidSpec: it is something else.
    """
    found: list[int] = []
    for part in text.replace(" ", "").split(","):
        low, dash, high = part.partition("-")
        if not low.isdecimal() or (dash and not high.isdecimal()) or int(high or low) >= _MOST_PROCESSORS:
            raise InvalidSpec(field, f'"{text}" is not a list such as "0-2,7"')
        if int(high or low) < int(low):
            raise InvalidSpec(field, f'"{part}" runs backwards')
        found += range(int(low), int(high or low) + 1)
    return found


def set_affinity(processors: list[int] | None) -> None:
    """Let the calling process run on these processors; None: on all that its control group has.

    What the runtime's caller was bound to is not the container's business.

    Raises:
        KernelFailure: EINVAL, none of them is there for us.
    """
    with kernel.reporting("sched_setaffinity", str(processors)):
        os.sched_setaffinity(0, range(os.sysconf("SC_NPROCESSORS_CONF")) if processors is None else processors)
