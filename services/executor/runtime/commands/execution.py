"""exec: one more process in a running container."""

from __future__ import annotations

import os

from services.executor.runtime import jsonlite, process
from services.executor.runtime.commands import foreground, lifecycle, store
from services.executor.runtime.commands.options import Option, UsageError
from services.executor.runtime.errors import InvalidSpec, RuntimeFailure, WrongState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

OPTIONS = (
    Option("console-socket", "text", "path to a socket which will receive the master end of the terminal", ""),
    Option("pidfd-socket", "text", "path to a socket which will receive a pidfd of the process", ""),
    Option("cwd", "text", "current working directory in the container", ""),
    Option("env e", "list", "set environment variables"),
    Option("tty t", "flag", "allocate a pseudo-TTY"),
    Option("user u", "text", "UID (format: <uid>[:<gid>])", ""),
    Option("additional-gids g", "list", "additional gids"),
    Option("process p", "text", "path to the process.json", ""),
    Option("detach d", "flag", "detach from the container's process"),
    Option("pid-file", "text", "file to write the process id to", ""),
    Option("process-label", "text", "set the asm process label for the process", ""),
    Option("apparmor", "text", "set the apparmor profile for the process", ""),
    Option("no-new-privs", "flag", "set the no new privileges value for the process"),
    Option("cap c", "list", "add a capability to the bounding set for the process"),
    Option("preserve-fds", "int", "pass N additional file descriptors to the container (3 and following)", 0),
    Option("cgroup", "list", "run the process in an (existing) sub-cgroup"),
    Option("ignore-paused", "flag", "allow exec in a paused container"),
)
_SETS = ("bounding", "effective", "permitted")


def execute(config: Any, options: dict[str, Any], arguments: list[str]) -> int:
    """`exec <id> <command> [args]`, or with --process."""
    if not arguments or (len(arguments) < 2 and not options["process"]):
        raise UsageError("process args cannot be empty" if arguments else '"exec" requires a minimum of 1 argument(s)')
    container = store.load(config.root, arguments[0])
    try:
        return _execute(container, options, arguments[1:])
    except RuntimeFailure as failure:
        starting = "unable to start container process: " if failure.step is not None else ""
        failure.message = f"exec failed: {starting}{failure.message}"
        failure.args = (failure.message,)
        raise


def _execute(container: store.Container, options: dict[str, Any], command: list[str]) -> int:
    status = container.status()
    if status == "stopped":
        raise WrongState("cannot exec in a stopped container")
    if status == "paused" and not options["ignore_paused"]:
        raise WrongState("cannot exec in a paused container (use --ignore-paused to override)")
    plan = _plan(container, options, command)
    lifecycle.check_terminal(plan.terminal, options["detach"], options["console_socket"])
    paths = _cgroup_paths(container, options["cgroup"])
    signals = -1 if options["detach"] else foreground.catch_signals()
    streams = foreground.Streams(terminal=plan.terminal, detach=options["detach"])
    unified = paths.get("unified")
    cgroup_fd = os.open(unified, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) if unified else None
    launch = process.launch_exec(
        lambda: plan,
        container.pid,
        paths,
        streams.theirs,
        cgroup_fd=cgroup_fd,
        preserve_fds=options["preserve_fds"],
    )
    streams.close_theirs()
    launch.until_ready()
    if options["detach"]:
        lifecycle.hand_over(launch, options)
    elif launch.master is not None:
        streams.take_terminal(launch.master)
    try:
        launch.until_running()
    except BaseException:
        streams.restore()
        raise
    if options["pid_file"]:
        lifecycle.write_pid_file(options["pid_file"], launch.pid)
    return 0 if options["detach"] else foreground.attend(launch.pid, streams, signals)


def _plan(container: store.Container, options: dict[str, Any], command: list[str]) -> Any:
    from services.executor.runtime import validate
    from services.executor.runtime.plan import ProcessPlan

    if options["process"]:
        try:
            with open(options["process"], "rb") as file:
                spec = jsonlite.loads(file.read())
        except OSError as error:
            raise RuntimeFailure(f"open {options['process']}: {(error.strerror or '').lower()}") from None
    else:
        spec = _from_options(dict(container.spec.get("process") or {}), options, command)
    if spec.get("capabilities") is None:
        # Of a process.json without any, as in runc: those of the container.
        spec["capabilities"] = (container.spec.get("process") or {}).get("capabilities")
    plan = ProcessPlan(spec)
    validate.process(plan)
    profile = (container.spec.get("linux") or {}).get("seccomp")
    if profile:
        from services.executor.runtime import seccomp

        plan.seccomp = seccomp.compile_filter(profile)
    return plan


def _from_options(spec: dict[str, Any], options: dict[str, Any], command: list[str]) -> dict[str, Any]:
    spec["args"] = command
    spec["terminal"] = options["tty"]
    spec.pop("consoleSize", None)
    if options["cwd"]:
        spec["cwd"] = options["cwd"]
    if options["env"]:
        spec["env"] = [*(spec.get("env") or []), *options["env"]]
    if options["apparmor"]:
        spec["apparmorProfile"] = options["apparmor"]
    if options["process_label"]:
        spec["selinuxLabel"] = options["process_label"]
    if options["no_new_privs"]:
        spec["noNewPrivileges"] = True
    if options["cap"]:
        sets = dict(spec.get("capabilities") or {})
        for name in _SETS:
            sets[name] = list(dict.fromkeys([*(sets.get(name) or []), *options["cap"]]))
        spec["capabilities"] = sets
    user = dict(spec.get("user") or {})
    if options["user"]:
        uid, _, gid = options["user"].partition(":")
        user["uid"] = _number("user", uid)
        if gid:
            user["gid"] = _number("user", gid)
    gids = [_number("additional-gids", gid) for entry in options["additional_gids"] for gid in entry.split(",")]
    user["additionalGids"] = [*(user.get("additionalGids") or []), *gids]
    spec["user"] = user
    return spec


def _number(option: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise RuntimeFailure(f"parsing {text} as int for {option} failed: invalid syntax") from None


def _cgroup_paths(container: store.Container, wanted: list[str]) -> dict[str, str]:
    """The container's cgroup, or groups below it: "path" for all controllers, "cpu,memory:path" for some (v1).

    Raises:
        InvalidSpec: it leads out, or does not exist.
    """
    paths = dict(container.cgroup().paths)
    for entry in wanted:
        controllers, separator, path = entry.rpartition(":")
        names = controllers.split(",") if separator else list(paths)
        for name in names:
            if name not in paths:
                raise InvalidSpec("--cgroup", f"unknown controller {name}")
            below = os.path.normpath("/" + path).lstrip("/")
            directory = os.path.join(paths[name], below)
            if not os.path.isdir(directory):
                raise InvalidSpec("--cgroup", f"{directory} does not exist")
            paths[name] = directory
    return paths
