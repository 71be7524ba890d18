"""update, events, ps: what a container may use, and what it does."""

from __future__ import annotations

import os
import sys
import time

from services.executor.runtime import jsonlite
from services.executor.runtime.commands import lifecycle, store
from services.executor.runtime.commands.options import Option, UsageError
from services.executor.runtime.errors import InvalidSpec, RuntimeFailure, WrongState
from services.executor.runtime.sizes import size_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from services.executor.runtime.cgroups.interface import Cgroup

_LOOK_AGAIN_S, _KILLED_WITHIN_S = 0.02, 1.0

#: option -> (group, key) in linux.resources
_FIELDS = {
    "blkio-weight": ("blockIO", "weight"),
    "cpu-period": ("cpu", "period"),
    "cpu-quota": ("cpu", "quota"),
    "cpu-burst": ("cpu", "burst"),
    "cpu-share": ("cpu", "shares"),
    "cpu-rt-period": ("cpu", "realtimePeriod"),
    "cpu-rt-runtime": ("cpu", "realtimeRuntime"),
    "cpu-idle": ("cpu", "idle"),
    "cpuset-cpus": ("cpu", "cpus"),
    "cpuset-mems": ("cpu", "mems"),
    "memory": ("memory", "limit"),
    "memory-reservation": ("memory", "reservation"),
    "memory-swap": ("memory", "swap"),
    "pids-limit": ("pids", "limit"),
}
_SIZES = frozenset({"memory", "memory-reservation", "memory-swap"})
_TEXTS = frozenset({"cpuset-cpus", "cpuset-mems"})
UPDATE_OPTIONS = (
    Option("resources r", "text", "path to the file containing the resources to update or '-' to read from stdin", ""),
    *(Option(name, "text", f"set linux.resources.{group}.{key}", "") for name, (group, key) in _FIELDS.items()),
    Option("kernel-memory", "text", "obsolete, passed over with a warning", ""),
    Option("kernel-memory-tcp", "text", "obsolete, passed over with a warning", ""),
    Option("l3-cache-schema", "text", "not supported: resctrl is not managed", ""),
    Option("mem-bw-schema", "text", "not supported: resctrl is not managed", ""),
)


def update(config: Any, options: dict[str, Any], arguments: list[str]) -> int:
    """`update <id>`: change limits of a running container."""
    container = store.load(config.root, lifecycle.one("update", arguments))
    if container.status() == "stopped":
        raise WrongState("container not running")
    for name in ("l3_cache_schema", "mem_bw_schema"):
        if options[name]:
            raise InvalidSpec(f"--{name.replace('_', '-')}", "resctrl is not managed by this runtime")
    if options["kernel_memory"] or options["kernel_memory_tcp"]:
        config.warn("Kernel memory settings are ignored and will be removed")
    changed = _from_file(options["resources"]) if options["resources"] else _from_options(options)
    from services.executor.runtime import cgroups

    cgroups.detect().validate(changed)
    container.cgroup().apply(changed)
    linux = container.spec.setdefault("linux", {})
    known = linux.setdefault("resources", {})
    for group, values in changed.items():
        known[group] = {**(known.get(group) or {}), **values} if isinstance(values, dict) else values
    container.save()
    return 0


def _from_file(path: str) -> dict[str, Any]:
    if path == "-":
        text = sys.stdin.buffer.read()
    else:
        from services.executor.runtime.kernel import calls as kernel

        with kernel.reporting("open", path), open(path, "rb") as file:
            text = file.read()
    try:
        resources = jsonlite.loads(text)
    except jsonlite.InvalidJson as error:
        raise InvalidSpec("--resources", str(error)) from None
    if not isinstance(resources, dict):
        raise InvalidSpec("--resources", "must be a JSON object")
    from services.executor.runtime.spec import shape

    shape.check(resources, shape.RESOURCES, "linux.resources")
    return resources


def _from_options(options: dict[str, Any]) -> dict[str, Any]:
    resources: dict[str, Any] = {}
    for name, (group, key) in _FIELDS.items():
        text = options[name.replace("-", "_")]
        if text:
            resources.setdefault(group, {})[key] = text if name in _TEXTS else _number(name, text)
    return resources


def _number(name: str, text: str) -> int:
    """A number, or for sizes one with a unit in powers of 1024 ("512m"); a negative one is no limit."""
    try:
        return size_bytes(text, 1024) if name in _SIZES and not text.startswith("-") else int(text)
    except ValueError:
        raise RuntimeFailure(f"invalid value for {name}: {text!r} is not a number") from None


EVENTS_OPTIONS = (
    Option("interval", "text", "set the stats collection interval", "5s"),
    Option("stats", "flag", "display the container's stats then exit"),
)


def events(config: Any, options: dict[str, Any], arguments: list[str]) -> int:
    """`events <id>`: a line of JSON per event, until the container ends."""
    container = store.load(config.root, lifecycle.one("events", arguments))
    interval_s = _duration_s(options["interval"])
    if interval_s <= 0:
        raise RuntimeFailure("duration interval must be greater than 0")
    if container.status() == "stopped":
        raise WrongState(f"container with id {container.data['id']} is not running")
    cgroup = container.cgroup()
    if options["stats"]:
        _emit(container, "stats", cgroup.stats())
        return 0
    _watch(container, cgroup, interval_s)
    return 0


def _watch(container: store.Container, cgroup: Cgroup, interval_s: float) -> None:
    import select

    oom_fd = cgroup.oom_notify_fd()
    killed = cgroup.oom_kill_count()
    poller = select.poll()
    poller.register(oom_fd, select.POLLIN)
    due, looking_until = time.monotonic(), 0.0
    while container.alive():
        now = time.monotonic()
        wait_s = min(due - now, _LOOK_AGAIN_S) if now < looking_until else due - now
        if poller.poll(max(0.0, wait_s) * 1000):
            os.read(oom_fd, 4096)
            # version 1 tells that memory has run out; who is killed for it is counted a moment later
            looking_until = time.monotonic() + _KILLED_WITHIN_S
        if time.monotonic() < looking_until and cgroup.oom_kill_count() != killed:
            killed = cgroup.oom_kill_count()
            _emit(container, "oom", None)
        if time.monotonic() >= due and not _emit_stats(container, cgroup):
            break
        while due <= time.monotonic():
            due += interval_s
    os.close(oom_fd)


def _emit_stats(container: store.Container, cgroup: Cgroup) -> bool:
    """False when the container went between the question and the answer."""
    try:
        data = cgroup.stats()
    except RuntimeFailure:
        if container.alive():
            raise
        return False
    _emit(container, "stats", data)
    return True


def _emit(container: store.Container, kind: str, data: dict[str, Any] | None) -> None:
    event: dict[str, Any] = {"type": kind, "id": container.data["id"]}
    if data is not None:
        # interfaces are counted by whoever made them
        event["data"] = {**data, "network_interfaces": None}
    sys.stdout.write(jsonlite.dumps(event) + "\n")
    sys.stdout.flush()


def _duration_s(text: str) -> float:
    """Go's durations: "500ms", "1m30s"."""
    units = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
    if text == "0":
        return 0.0
    total, number, unit = 0.0, "", ""
    for character in text.removeprefix("-") + "0":
        if (character.isdecimal() or character == ".") and unit:
            if unit not in units:
                break
            total += float(number) * units[unit]
            number, unit = "", ""
        if character.isdecimal() or character == ".":
            number += character
        else:
            unit += character
    if unit or number != "0":
        raise UsageError(f'invalid value "{text}" for flag -interval: parse error')
    return -total if text.startswith("-") else total


PS_OPTIONS = (Option("format f", "text", "select one of: table or json", "table"),)


def show_processes(config: Any, options: dict[str, Any], arguments: list[str]) -> int:
    """`ps <id> [options of ps]`: what ps(1) says, narrowed to the container's processes."""
    if not arguments:
        raise UsageError('"ps" requires a minimum of 1 argument(s)')
    pids = store.load(config.root, arguments[0]).cgroup().pids()
    if options["format"] == "json":
        sys.stdout.write(jsonlite.dumps(pids) + "\n")
        return 0
    if options["format"] != "table":
        raise RuntimeFailure("invalid format option")
    import subprocess

    done = subprocess.run(["ps", *(arguments[1:] or ["-ef"])], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeFailure(f"exit status {done.returncode}: {done.stdout}{done.stderr}")
    lines = done.stdout.splitlines()
    titles = lines[0].split() if lines else []
    if "PID" not in titles:
        raise RuntimeFailure("couldn't find PID field in ps output")
    column = titles.index("PID")
    wanted = {str(pid) for pid in pids}
    for line in [
        lines[0],
        *(row for row in lines[1:] if row.split()[column : column + 1][0:1] and row.split()[column] in wanted),
    ]:
        sys.stdout.write(line + "\n")
    return 0
