"""Which control groups this machine has, found by looking at what is mounted."""

from __future__ import annotations

from services.executor.runtime.errors import NotSupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from services.executor.runtime.cgroups.interface import CgroupBackend

_NAMES = "cpu cpuacct cpuset memory devices freezer blkio pids hugetlb net_cls net_prio rdma perf_event misc"
V1_CONTROLLERS = frozenset(_NAMES.split())


def detect(mountinfo: str = "/proc/self/mountinfo") -> CgroupBackend:
    """The backend for what is mounted: v2 alone, or v1 with or without a v2 tree beside it (hybrid).

    Args:
        mountinfo: the file to look at. Source: proc_pid_mountinfo(5).

    Raises:
        NotSupported: no control groups are mounted.
    """
    with open(mountinfo, encoding="utf-8", errors="surrogateescape") as file:
        v1, v2 = parse(file.read())
    if v1:
        from services.executor.runtime.cgroups.v1.backend import V1Backend

        return V1Backend(v1, v2)
    if v2 is not None:
        from services.executor.runtime.cgroups.v2.backend import V2Backend

        return V2Backend(v2)
    raise NotSupported("linux.cgroupsPath", "no cgroup file system is mounted")


def parse(mountinfo: str) -> tuple[dict[str, str], str | None]:
    """Mount point by v1 controller (a named hierarchy as "name=…"), and the v2 mount point or None.

    Of several mounts of one hierarchy the first counts: later ones are usually binds inside containers.
    """
    v1: dict[str, str] = {}
    v2: str | None = None
    for line in mountinfo.splitlines():
        left, separator, right = line.partition(" - ")
        if not separator or not right.startswith("cgroup"):
            continue
        fstype, _, options = right.split(" ", 2)
        mount_point = _unescaped(left.split(" ")[4])
        if fstype == "cgroup2":
            v2 = v2 or mount_point
        elif fstype == "cgroup":
            for option in options.split(","):
                if option in V1_CONTROLLERS or option.startswith("name="):
                    v1.setdefault(option, mount_point)
    return v1, v2


def _unescaped(text: str) -> str:
    if "\\" not in text:
        return text
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text
