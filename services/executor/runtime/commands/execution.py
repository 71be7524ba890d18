"""exec: one more process in a running container."""

from __future__ import annotations

import errno
import os

from services.executor.runtime import jsonlite
from services.executor.runtime.commands import creation, foreground, store
from services.executor.runtime.commands.options import Option, UsageError
from services.executor.runtime.errors import InvalidSpec, KernelFailure, RuntimeFailure, WrongState
from services.executor.runtime.kernel import calls as kernel
from services.executor.runtime.launch import execs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from services.executor.runtime.launch.conversation import Launch

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
    if not arguments:
        raise UsageError('"exec" requires a minimum of 1 argument(s)')
    if len(arguments) < 2 and not options["process"]:
        raise RuntimeFailure("exec failed: process args cannot be empty")
    try:
        return _execute(config, store.load(config.root, arguments[0]), options, arguments[1:])
    except RuntimeFailure as failure:
        starting = "unable to start container process: " if failure.step is not None else ""
        failure.message = f"exec failed: {starting}{failure.message}"
        failure.args = (failure.message,)
        raise


def _execute(config: Any, container: store.Container, options: dict[str, Any], command: list[str]) -> int:
    status = container.status()
    if status == "stopped":
        raise WrongState("cannot exec in a stopped container")
    if status == "paused" and not options["ignore_paused"]:
        raise WrongState("cannot exec in a paused container (use --ignore-paused to override)")
    plan = _plan(container, options, command)
    creation.warn_of_capabilities(config, plan)
    creation.check_terminal(plan.terminal, options["detach"], options["console_socket"])
    creation.check_preserved(options["preserve_fds"])
    signals = -1 if options["detach"] else foreground.catch_signals()
    streams = foreground.Streams(terminal=plan.terminal, detach=options["detach"])
    _debug(config, plan)
    launch = _launch(container, plan, streams.theirs, options)
    launch.on_listener = _listener_sender(container, plan, launch)
    streams.close_theirs()
    launch.until_ready()
    config.debug("child process in init()")
    try:
        if options["pid_file"]:
            creation.write_pid_file(options["pid_file"], launch.pid)
        if options["detach"]:
            creation.hand_over(launch, options)
        elif launch.master is not None:
            streams.take_terminal(launch.master)
        launch.start()
        launch.until_running()
    except BaseException:
        streams.restore()
        launch.abort()
        raise
    config.debug("setns_init: about to exec: done")
    return 0 if options["detach"] else foreground.attend(launch.pid, streams, signals)


def _debug(config: Any, plan: Any) -> None:
    if not config.debugging:
        return
    config.debug("nsexec container setup")
    initial = plan.affinity[0]
    if initial is not None:
        config.debug(f"nsexec: affinity: {sum(1 << number for number in set(initial)):#x}")
    if plan.seccomp is not None:
        config.debug(f"seccomp filter flags: {plan.seccomp.flags}")


def _launch(container: store.Container, plan: Any, streams: tuple[int, int, int], options: dict[str, Any]) -> Launch:
    paths = _cgroup_paths(container, options["cgroup"])
    unified = paths.get("unified")
    try:
        return execs.launch_exec(
            lambda: plan,
            container.pid,
            paths,
            streams,
            cgroup_fd=_directory_fd(unified) if unified else None,
            leaf=None if options["cgroup"] or not unified else lambda: container.cgroup().leaf_fd(container.pid),
            preserve_fds=options["preserve_fds"],
        )
    except KernelFailure as failure:
        if failure.errno != errno.EBUSY:
            raise
        raise RuntimeFailure(
            f"error adding pid of the new process to cgroups: {unified}: device or resource busy",
            step="cgroups",
            errno=failure.errno,
        ) from None


def _directory_fd(path: str) -> int:
    with kernel.reporting("open", path):
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _listener_sender(container: store.Container, plan: Any, launch: Launch) -> Callable[[int], None]:
    def send(fd: int) -> None:
        from services.executor.runtime.commands import listener

        path, metadata = plan.seccomp.listener_path, plan.seccomp.listener_metadata
        listener.send(path, metadata, container.hook_state(), launch.pid, fd)

    return send


def _plan(container: store.Container, options: dict[str, Any], command: list[str]) -> Any:
    from services.executor.runtime.spec import validate
    from services.executor.runtime.spec.plan import ProcessPlan

    if options["process"]:
        try:
            with open(options["process"], "rb") as file:
                spec = jsonlite.loads(file.read())
        except OSError as error:
            raise RuntimeFailure(f"open {options['process']}: {(error.strerror or '').lower()}") from None
        except jsonlite.InvalidJson as error:
            raise InvalidSpec(options["process"], str(error)) from None
        if not isinstance(spec, dict):
            raise InvalidSpec(options["process"], "must be a JSON object")
        from services.executor.runtime.spec import shape

        shape.check(spec, shape.PROCESS, "process")
    else:
        spec = _from_options(dict(container.spec.get("process") or {}), options, command)
    if spec.get("capabilities") is None:
        # Of a process.json without any, as in runc: those of the container.
        spec["capabilities"] = (container.spec.get("process") or {}).get("capabilities")
    if options["tty"]:
        spec["terminal"] = True
    plan = ProcessPlan(spec)
    plan.take_linux(container.spec.get("linux") or {})
    plan.take_exec_affinity(spec)
    validate.process(plan)
    # the pid file is there, and sockets have got what they were promised, before the program runs
    plan.wait = True
    profile = (container.spec.get("linux") or {}).get("seccomp")
    if profile:
        from services.executor.runtime.seccomp import compiler

        plan.seccomp = compiler.compile_filter(profile)
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
        user["uid"] = _number("uid", uid)
        if gid:
            user["gid"] = _number("gid", gid)
    gids = [_number("additional-gids", gid) for entry in options["additional_gids"] for gid in entry.split(",")]
    user["additionalGids"] = [*(user.get("additionalGids") or []), *gids]
    spec["user"] = user
    return spec


def _number(option: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise RuntimeFailure(f'parsing {text} as int for {option} failed: parsing "{text}": invalid syntax') from None


def _cgroup_paths(container: store.Container, wanted: list[str]) -> dict[str, str]:
    """The container's cgroup, or groups below it: "path" for all controllers, "cpu,memory:path" for some (v1).

    Raises:
        InvalidSpec: it leads out, or does not exist.
    """
    own = container.cgroup().paths
    paths = dict(own)
    for entry in wanted:
        controllers, separator, path = entry.rpartition(":")
        names = controllers.split(",") if separator else list(paths)
        for name in names:
            if name not in paths:
                raise InvalidSpec("--cgroup", f"unknown controller {name} in {entry!r}")
            below = os.path.normpath(path.lstrip("/") or ".")
            if below == ".." or below.startswith("../"):
                raise InvalidSpec("--cgroup", f"bad sub cgroup path: {path}")
            directory = os.path.join(own[name], below)
            if not os.path.isdir(directory):
                raise RuntimeFailure(
                    f"error adding pid of the new process to cgroups: {directory}: no such file or directory",
                    step="cgroups",
                )
            paths[name] = directory
    return paths
