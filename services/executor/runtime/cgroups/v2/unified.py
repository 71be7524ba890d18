"""`linux.resources.unified`: files of version 2 by name, for what OCI has no field for.

Source: runtime-spec config-linux.md#unified.
"""

from __future__ import annotations

import os

from services.executor.runtime.cgroups import files
from services.executor.runtime.errors import NotSupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from services.executor.runtime.cgroups.interface import Resources


def controllers(resources: Resources) -> dict[str, str]:
    """The controllers that the files belong to, and the field that says so; "cgroup" files belong to none."""
    return {
        key.partition(".")[0]: f"linux.resources.unified[{key}]"
        for key in files.section(resources, "unified")
        if not key.startswith("cgroup.")
    }


def apply(directory: str, resources: Resources) -> None:
    """Write each line of each value by itself, which is what files of many devices want."""
    for key, value in files.section(resources, "unified").items():
        field = f"linux.resources.unified[{key}]"
        if not os.path.exists(f"{directory}/{key}"):
            raise NotSupported(field, f"there is no {key}")
        for line in value.split("\n"):
            files.write(directory, key, line, field=field)
