"""Where a container's control group is: the meaning of `linux.cgroupsPath`.

Source: runtime-spec, config-linux.md#cgroups-path; runc's `systemd.md` for the slice form.
"""

from __future__ import annotations

import os

from services.executor.runtime.errors import InvalidSpec

DEFAULT_PARENT = "/davit"


def cgroup_path(cgroups_path: str | None, container_id: str) -> str:
    """Absolute path below the hierarchy's root.

    An absolute `cgroups_path` is taken from the root; a relative one from our own parent, `/davit`; none at all means
    `/davit/<id>`. ".." cannot lead above the root.

    Raises:
        InvalidSpec: the path is the root itself, whose limits belong to the machine.
    """
    if not cgroups_path:
        return f"{DEFAULT_PARENT}/{container_id}"
    absolute = cgroups_path.startswith("/")
    path = clean(cgroups_path) if absolute else DEFAULT_PARENT + clean(cgroups_path)
    if path in {"/", DEFAULT_PARENT + "/"}:
        raise InvalidSpec("linux.cgroupsPath", f"{cgroups_path!r} names no control group of its own")
    return path


def clean(path: str) -> str:
    """An absolute path without "..", "." and doubled slashes."""
    return os.path.normpath("/" + path.lstrip("/"))


def systemd_unit(cgroups_path: str | None, container_id: str) -> tuple[str, str]:
    """Slice and scope for `--systemd-cgroup`: `slice:prefix:name`, by default `system.slice:runc:<id>`.

    Raises:
        InvalidSpec: not three parts.
    """
    if not cgroups_path:
        return "system.slice", f"runc-{container_id}.scope"
    parts = cgroups_path.split(":")
    if len(parts) != 3:
        raise InvalidSpec(
            "linux.cgroupsPath", f'{cgroups_path!r} is not of the form "slice:prefix:name" that systemd cgroups need'
        )
    parent, prefix, name = parts
    if name.endswith(".slice"):
        return parent or "system.slice", name
    return parent or "system.slice", f"{prefix}-{name}.scope" if prefix else f"{name}.scope"


def slice_path(name: str) -> str:
    """Directory of a slice: systemd nests them by dashes, "a-b.slice" is "/a.slice/a-b.slice".

    Raises:
        InvalidSpec: not a slice's name.
    """
    if name == "-.slice":
        return "/"
    stem = name.removesuffix(".slice")
    if stem == name or "/" in name or not stem or stem.startswith("-") or stem.endswith("-") or "--" in stem:
        raise InvalidSpec("linux.cgroupsPath", f"{name!r} is not the name of a slice")
    pieces = stem.split("-")
    return "/" + "/".join("-".join(pieces[: count + 1]) + ".slice" for count in range(len(pieces)))
