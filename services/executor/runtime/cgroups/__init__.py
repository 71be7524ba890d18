"""Control groups: limits, accounting, freezing and killing of all of a container's processes.

`detect()` looks at what is mounted and answers the backend for it; `cgroup_path` says where a container's group is.
"""

from __future__ import annotations

from services.executor.runtime.cgroups.detect import detect
from services.executor.runtime.cgroups.paths import DEFAULT_PARENT, cgroup_path

__all__ = ["DEFAULT_PARENT", "cgroup_path", "detect"]
