"""v1 `devices`: which device files may be opened and made.

Source: kernel cgroup-v1/devices.rst.
"""

from __future__ import annotations

from services.executor.runtime.cgroups import files
from services.executor.runtime.cgroups.device_rules import DeviceRules

TYPE_CHECKING = False
if TYPE_CHECKING:
    from services.executor.runtime.cgroups.interface import Resources, Stats

NAME = "devices"


def wanted(resources: Resources) -> str | None:
    return "linux.resources.devices" if resources.get("devices") else None


def validate(directory: str, resources: Resources) -> None:
    DeviceRules.for_container(resources.get("devices") or ())


def apply(directory: str, resources: Resources) -> None:
    """Go from the rules in force to those wanted, by the difference alone.

    Starting over with "deny all" would, for a moment, keep a running container from its /dev/null.
    """
    if resources.get("devices"):
        current = DeviceRules.parse(files.read(directory, "devices.list"))
        for name, line in current.changes(DeviceRules.for_container(resources["devices"])):
            files.write(directory, name, line, field="linux.resources.devices")


def stats(directory: str, into: Stats) -> None:
    """There are none."""
