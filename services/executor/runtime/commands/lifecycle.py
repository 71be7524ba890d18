"""start, kill, delete, pause, resume, state, list: what concerns a container that is there.

Engines call these for every container, so they import little; what makes one is in `creation.py`.
"""

from __future__ import annotations

import os
import sys

from services.executor.runtime import jsonlite
from services.executor.runtime.commands import store
from services.executor.runtime.commands.options import Option, UsageError
from services.executor.runtime.errors import HookFailure, NotFound, RuntimeFailure, WrongState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from services.executor.runtime.commands import notify


def one(command: str, arguments: list[str]) -> str:
    """The one argument of a command."""
    if len(arguments) != 1:
        raise UsageError(f'"{command}" requires exactly 1 argument(s)')
    return arguments[0]


def _send_listener_of(container: store.Container, fd: int) -> None:
    """The filter of a process that may gain no privileges comes last, after `create` has gone."""
    from services.executor.runtime.commands import listener

    profile = container.spec["linux"]["seccomp"]
    path, metadata = profile["listenerPath"], profile.get("listenerMetadata") or ""
    listener.send(path, metadata, container.hook_state(), container.pid, fd)


def run_poststart(container: store.Container) -> None:
    """The program has been executed; what the hooks get says so even when it has ended since.

    Raises:
        HookFailure: the container is then to be stopped.
    """
    wanted = container.spec.get("hooks") or {}
    if not wanted.get("poststart"):
        return
    from services.executor.runtime.steps import hooks

    hooks.run("poststart", wanted, container.hook_state() | {"status": "running", "pid": container.pid})


def start(config: Any, _options: dict[str, Any], arguments: list[str]) -> int:
    """`start <id>`: let a created container execve."""
    container = store.load(config.root, one("start", arguments))
    status = container.status()
    if status == "stopped":
        raise WrongState("cannot start a container that has stopped")
    if status == "paused":
        raise WrongState("cannot start a container in the paused state")
    if status != "created":
        raise WrongState("cannot start an already running container")
    from services.executor.runtime.launch import sync
    from services.executor.runtime.launch.conversation import Launch

    launch = Launch(container.pid, sync.Channel(store.connect(container)))
    launch.on_listener = lambda fd: _send_listener_of(container, fd)
    ready = ready_listener(container)
    os.unlink(os.path.join(container.directory, store.START_SOCKET))
    launch.until_running()
    try:
        run_poststart(container)
    except HookFailure:
        _kill_and_wait(container)
        raise
    if ready is not None:
        ready.wait(container)
    return 0


def ready_listener(container: store.Container) -> notify.Listener | None:
    """Where the container says that it is ready, when somebody waits for that, and it was created to say it."""
    if not os.environ.get("NOTIFY_SOCKET"):
        return None
    if not os.path.isdir(os.path.join(container.directory, store.NOTIFY_DIRECTORY)):
        return None
    from services.executor.runtime.commands import notify

    return notify.Listener(container.directory)


def kill(config: Any, options: dict[str, Any], arguments: list[str]) -> int:
    """`kill [-a] <id> [signal]`."""
    if len(arguments) not in {1, 2}:
        raise UsageError('"kill" requires a minimum of 1 argument(s) and a maximum of 2')
    number = signal_number(arguments[1] if len(arguments) > 1 else "SIGTERM")
    container = store.load(config.root, arguments[0])
    private = any(
        entry.get("type") == "pid" and not entry.get("path")
        for entry in (container.spec.get("linux") or {}).get("namespaces") or []
    )
    group = container.cgroup()
    others = group if (options["all"] or (number == 9 and not private)) and group.exists() else None
    if others is not None and number == 9 and not others.pids() and not options["all"]:
        raise WrongState("container not running")
    if others is not None:
        # without a pid namespace of its own nothing else would end the rest, also when its first process has gone
        others.kill(number)
    else:
        container.signal(number)
    if number == 9 and container.alive() and group.frozen():
        # a frozen process dies when it thaws
        group.thaw()
    return 0


#: a number that the kernel refuses, and that fits where numbers of signals go
_BEYOND_SIGNALS = 1 << 16
KILL_OPTIONS = (Option("all a", "flag", "send the specified signal to all processes inside the container"),)


def signal_number(text: str) -> int:
    """A signal by number (whichever; the kernel knows those it has) or name, with or without SIG.

    Raises:
        RuntimeFailure: there is none.
    """
    if text.isdecimal():
        return min(int(text), _BEYOND_SIGNALS)
    import _signal  # type: ignore[import-not-found]  # `signal` itself costs an enum module

    name = text.upper()
    found = getattr(_signal, name if name.startswith("SIG") else "SIG" + name, None)
    if not isinstance(found, int):
        raise RuntimeFailure(f"unknown signal {text!r}".replace("'", '"'))
    return found


DELETE_OPTIONS = (Option("force f", "flag", "forcibly deletes the container if it is still running (uses SIGKILL)"),)


def delete(config: Any, options: dict[str, Any], arguments: list[str]) -> int:
    """`delete [-f] <id>`."""
    container_id = one("delete", arguments)
    try:
        container = store.load(config.root, container_id)
    except NotFound:
        # a directory without a record is what a crash while creating has left
        left = os.path.join(config.root, store.check_id(container_id))
        if os.path.isdir(left):
            store.Container(left, {}).remove()
        if options["force"]:
            return 0
        raise
    status = container.status()
    if status == "stopped":
        destroy(config, container)
        return 0
    if status == "created" or options["force"]:
        _kill_and_wait(container)
        destroy(config, container)
        return 0
    raise WrongState(f"cannot delete container {container_id} that is not stopped: {status}")


def _kill_and_wait(container: store.Container) -> None:
    try:
        container.signal(9)
    except WrongState:
        return
    cgroup = container.cgroup()
    if cgroup.frozen():
        cgroup.thaw()
    if not container.wait_gone(10.0):
        raise RuntimeFailure("container init still running")


def destroy(config: Any, container: store.Container) -> None:
    """Remove what is left of a container: its processes, control group and record."""
    from services.executor.runtime import cgroups

    cgroup = container.cgroup()
    cgroup.kill()
    cgroup.remove()
    cgroups.detect().tidy()
    described = container.hook_state()
    container.remove()
    run_poststop(config, container.spec.get("hooks") or {}, described)


def run_poststop(config: Any, wanted: dict[str, Any], state: dict[str, Any]) -> None:
    """Run the hooks of the end; those that fail are reported, and stop nothing."""
    if not wanted.get("poststop"):
        return
    from services.executor.runtime.steps import hooks

    described = {**state, "status": "stopped"}
    described.pop("pid", None)
    for failure in hooks.run_all("poststop", wanted, described):
        config.report(failure.message)


def pause(config: Any, _options: dict[str, Any], arguments: list[str]) -> int:
    """`pause <id>`."""
    container = store.load(config.root, one("pause", arguments))
    status = container.status()
    if status not in {"running", "created"}:
        raise WrongState("container not running")
    container.cgroup().freeze()
    return 0


def resume(config: Any, _options: dict[str, Any], arguments: list[str]) -> int:
    """`resume <id>`."""
    container = store.load(config.root, one("resume", arguments))
    if container.status() != "paused":
        raise WrongState("container not paused")
    container.cgroup().thaw()
    return 0


def show_state(config: Any, _options: dict[str, Any], arguments: list[str]) -> int:
    """`state <id>`."""
    container = store.load(config.root, one("state", arguments))
    sys.stdout.write(jsonlite.dumps(container.describe(), indent="  ") + "\n")
    return 0


LIST_OPTIONS = (
    Option("format f", "text", "select one of: table or json", "table"),
    Option("quiet q", "flag", "display only container IDs"),
)


def list_all(config: Any, options: dict[str, Any], arguments: list[str]) -> int:
    """`list`."""
    if arguments:
        raise UsageError('"list" requires exactly 0 argument(s)')
    described = [container.describe() for container in store.all_containers(config.root)]
    if options["quiet"]:
        sys.stdout.write("".join(entry["id"] + "\n" for entry in described))
    elif options["format"] == "json":
        sys.stdout.write(jsonlite.dumps(described or None) + "\n")
    elif options["format"] == "table":
        rows = [("ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER")]
        rows += [(e["id"], str(e["pid"]), e["status"], e["bundle"], e["created"], e["owner"]) for e in described]
        widths = [max(12, *(len(row[i]) + 3 for row in rows)) for i in range(5)]
        for row in rows:
            sys.stdout.write(
                "".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)) + row[5] + "\n"
            )
    else:
        raise RuntimeFailure("invalid format option")
    return 0
