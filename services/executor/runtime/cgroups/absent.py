"""No control group: a container of an unprivileged user, to whom none was handed over.

It can be made when it asks for no limits; what needs a group then says that there is none.
"""

from __future__ import annotations

from services.executor.runtime.errors import RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from services.executor.runtime.cgroups.interface import Cgroup, Resources, Stats

_NAMES = {"blockIO": "block io", "hugepageLimits": "huge page"}


class AbsentCgroup:
    """Implements `Cgroup`; contracts are there."""

    path = ""

    @property
    def paths(self) -> dict[str, str]:
        return {}

    def exists(self) -> bool:
        return False

    def add(self, pid: int) -> None:
        """There is nothing to join."""

    def directory_fd(self) -> int | None:
        return None

    def leaf_fd(self, pid: int) -> int:
        self._refuse("enter a group")

    def apply(self, resources: Resources) -> None:
        """Only what sets nothing. Device nodes are out of an unprivileged user's reach anyway."""
        for name, value in resources.items():
            if name != "devices" and value:
                raise RuntimeFailure(
                    f"cannot set {_NAMES.get(name, name)} limit: container could not join or create cgroup (rootless "
                    "needs no limits + no cgrouppath when no permission is granted for cgroups)",
                    step="cgroups",
                    field=f"linux.resources.{name}",
                )

    def freeze(self) -> None:
        self._refuse("toggle freezer")

    def thaw(self) -> None:
        self._refuse("toggle freezer")

    def frozen(self) -> bool:
        return False

    def pids(self, recursive: bool = True) -> list[int]:
        self._refuse("get all container pids")

    def kill(self, signal_number: int = 9) -> None:
        """The end of its pid namespace is the end of all its processes."""

    def remove(self, timeout_s: float = 2.0) -> None:
        """There is nothing to remove."""

    def stats(self) -> Stats:
        self._refuse("count")

    def oom_kill_count(self) -> int:
        return 0

    def oom_notify_fd(self) -> int:
        self._refuse("watch memory")

    @staticmethod
    def _refuse(what: str) -> NoReturn:
        raise RuntimeFailure(f"cannot {what}: cgroups not configured for container", step="cgroups")


if TYPE_CHECKING:
    _cgroup: Cgroup = AbsentCgroup()
