"""create and run."""

from __future__ import annotations

import errno
import os
import time

from services.executor.runtime import jsonlite, state
from services.executor.runtime.commands import lifecycle, store
from services.executor.runtime.commands.options import Option
from services.executor.runtime.errors import InvalidSpec, KernelFailure, RuntimeFailure
from services.executor.runtime.kernel import calls as kernel
from services.executor.runtime.launch import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from services.executor.runtime.cgroups.interface import Cgroup, CgroupBackend
    from services.executor.runtime.launch.conversation import Launch
    from services.executor.runtime.spec.plan import ContainerPlan, ProcessPlan

CONFIG_FILE = "config.json"
CREATE_OPTIONS = (
    Option("bundle b", "text", "path to the root of the bundle directory", "."),
    Option("config f", "text", "the configuration, from the bundle's directory", CONFIG_FILE),
    Option("console-socket", "text", "path to a socket which will receive the master end of the terminal", ""),
    Option("pidfd-socket", "text", "path to a socket which will receive a pidfd of the container's process", ""),
    Option("pid-file", "text", "file to write the process id to", ""),
    Option("no-pivot", "flag", "do not use pivot root to jail process inside rootfs"),
    Option("no-new-keyring", "flag", "do not create a new session keyring for the container"),
    Option("preserve-fds", "int", "pass N additional file descriptors to the container (3 and following)", 0),
    Option("no-mount-fallback", "flag", "do not keep mount flags that a user namespace has locked; fail instead"),
)
RUN_OPTIONS = (
    *CREATE_OPTIONS,
    Option("detach d", "flag", "detach from the container's process"),
    Option("keep", "flag", "do not delete the container after it exits"),
    Option("no-subreaper", "flag", "do not adopt orphaned processes of the container"),
)


def load_spec(bundle: str, name: str = CONFIG_FILE) -> dict[str, Any]:
    """config.json of a bundle, or what another file says instead.

    Raises:
        RuntimeFailure: it is missing or no JSON object.
    """
    try:
        with open(os.path.join(bundle, name), "rb") as file:
            spec = jsonlite.loads(file.read())
    except FileNotFoundError:
        raise RuntimeFailure(f"JSON specification file {name} not found") from None
    except jsonlite.InvalidJson as error:
        raise InvalidSpec(name, str(error)) from None
    if not isinstance(spec, dict):
        raise InvalidSpec(name, "must be a JSON object")
    from services.executor.runtime.spec import shape

    shape.check(spec, shape.CONFIG, "")
    return spec


class Creation:
    """A container being made; undone as a whole unless `commit` is reached."""

    def __init__(self, config: Any, options: dict[str, Any], container_id: str) -> None:
        from services.executor.runtime.spec.plan import ContainerPlan

        self.config = config
        self.options = options
        check_preserved(options["preserve_fds"])
        # relative paths on the command line are the caller's
        self.called_in = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        if options["pid_file"]:
            options["pid_file"] = os.path.abspath(options["pid_file"])
        bundle = os.path.abspath(options["bundle"])
        with kernel.reporting("chdir", bundle):
            os.chdir(bundle)
        spec = load_spec(bundle, options["config"])
        self.notifies = bool(os.environ.get("NOTIFY_SOCKET"))
        if self.notifies:
            from services.executor.runtime.commands import notify

            notify.add_to(spec, os.path.join(config.root, store.check_id(container_id)))
        self.plan: ContainerPlan = ContainerPlan(store.check_id(container_id), spec, bundle)
        self.plan.pivot = not options["no_pivot"]
        self.plan.mount_fallback = not options["no_mount_fallback"]
        self.plan.new_keyring = not options["no_new_keyring"]
        self.plan.preserve_fds = options["preserve_fds"] + _activated_fds(self.plan)
        self.backend, self.cgroup_path = self._place()
        self.cgroup: Cgroup | None = None
        self.launch: Launch | None = None
        self.container: store.Container | None = None

    def _place(self) -> tuple[CgroupBackend, str]:
        """Who makes the container's control group, and where."""
        from services.executor.runtime import cgroups

        asked, container_id = self.plan.linux.get("cgroupsPath"), self.plan.container_id
        cpu = (self.plan.linux.get("resources") or {}).get("cpu") or {}
        if not asked and cpu.get("realtimeRuntime"):
            asked = f"/{container_id}"  # the parent of the others has no realtime to give
        if not self.config.systemd_cgroup:
            return cgroups.detect(), cgroups.cgroup_path(asked, container_id)
        from services.executor.runtime.cgroups import systemd

        return systemd.SystemdBackend(cgroups.detect()), systemd.unit_path(asked, container_id)

    def guard_interpreter(self) -> None:
        """See to it that the container's program cannot get at the interpreter; may start this command once more."""
        from services.executor.runtime.steps import selfexe

        if not selfexe.needed():
            return
        from services.executor.runtime.steps import execstub

        if self.plan.linux.get("seccomp") or not execstub.suits(self.plan):
            os.fchdir(self.called_in)  # where its arguments mean what they mean
            selfexe.protect(self.config.arguments)
        self.plan.process.stubbed = True

    def make(self, streams: tuple[int, int, int], *, stays: bool) -> Launch:
        """Up to the point where the process waits: for us, or (`stays`) for whoever connects when we have gone."""
        from services.executor.runtime.spec import validate

        plan = self.plan
        validate.container(plan, self.backend)
        warn_of_capabilities(self.config, plan.process)
        if plan.linux.get("seccomp"):
            from services.executor.runtime.seccomp import compiler

            plan.process.seccomp = compiler.compile_filter(plan.linux["seccomp"])
        directory = store.reserve(self.config.root, plan.container_id)
        try:
            return self._make_in(directory, streams, stays=stays)
        except BaseException:
            self._undo(directory)
            raise

    def _make_in(self, directory: str, streams: tuple[int, int, int], *, stays: bool) -> Launch:
        plan = self.plan
        # nothing of the program before the pid file is written and sockets have got what they were promised
        plan.process.wait = True
        if self.notifies:
            os.mkdir(os.path.join(directory, store.NOTIFY_DIRECTORY), 0o755)
        if stays:
            plan.start_listener = store.listen(directory)
        self.cgroup = self._group(plan.linux.get("resources") or {})
        plan.cgroup_paths = self.cgroup.paths
        staged = process.needs_stage(plan.spec, plan.namespaces)
        birth = process.Birth(
            plan.namespaces.clone_flags(staged=staged),
            staged=staged,
            cgroup_fd=self.cgroup.directory_fd(),
        )
        self._debug()
        launch = self.launch = process.launch_container(lambda: plan, birth, streams)
        launch.on_listener = self._send_listener
        launch.until_ready()
        self.config.debug("child process in init()")
        self._record(directory, launch)
        return launch

    def _group(self, resources: dict[str, Any]) -> Cgroup:
        """The container's control group; none where we may make none, and none is asked for.

        Raises:
            RuntimeFailure: we may make none, and one is asked for.
        """
        present = self.backend.open(self.cgroup_path)
        found = len(present.pids()) if present.exists() else 0
        if found:
            self.config.warn(f"container's cgroup is not empty: {found} process(es) found")
        if _is_frozen(present):  # what enters it would stop where nobody sees it
            raise RuntimeFailure("container's cgroup unexpectedly frozen")
        try:
            return self.backend.create(self.cgroup_path, resources)
        except KernelFailure as failure:
            if not self.config.rootless or failure.errno not in {errno.EACCES, errno.EPERM, errno.EROFS}:
                raise
            if self.plan.linux.get("cgroupsPath"):
                failure.message = f"applying cgroup configuration: {failure.message}"
                failure.args = (failure.message,)
                raise
        from services.executor.runtime.cgroups.absent import AbsentCgroup

        group = AbsentCgroup()
        group.apply(resources)
        self.cgroup_path = ""
        return group

    def _debug(self) -> None:
        if not self.config.debugging:
            return
        names = self.plan.namespaces
        self.config.debug(f"nsexec container setup: new {sorted(names.new)}, joined {sorted(names.paths)}")
        if self.plan.process.seccomp is not None:
            self.config.debug(f"seccomp filter flags: {self.plan.process.seccomp.flags}")

    def _record(self, directory: str, launch: Launch) -> None:
        plan = self.plan
        data = {
            "id": plan.container_id,
            "bundle": plan.bundle,
            "rootfs": os.path.realpath(plan.root_path),
            "pid": launch.pid,
            "start_time": state.start_time(launch.pid),
            "created": _now(),
            "owner": os.getuid(),
            "cgroup": self.cgroup_path,
            "spec": plan.spec,
        }
        self.container = store.Container(directory, data)
        self.container.save()
        if self.options["pid_file"]:
            write_pid_file(self.options["pid_file"], launch.pid)

    def _send_listener(self, fd: int) -> None:
        from services.executor.runtime.commands import listener

        assert self.launch is not None
        pid = self.launch.pid
        compiled = self.plan.process.seccomp
        listener.send(compiled.listener_path, compiled.listener_metadata, self.plan.state("creating", pid), pid, fd)

    def undo(self) -> None:
        """Take everything back after `make`."""
        assert self.container is not None
        self._undo(self.container.directory)

    def _undo(self, directory: str) -> None:
        if self.launch is not None:
            self.launch.abort()
        if self.cgroup is not None:
            self.cgroup.kill()
            self.cgroup.remove()
            self.backend.tidy()
        store.remove(directory)
        if self.launch is not None:
            # runtime.md "Lifecycle": whoever fails on the way, the hooks of the end are run
            lifecycle.run_poststop(self.config, self.plan.hooks, self.plan.state("stopped", 0))


def _is_frozen(group: Cgroup) -> bool:
    """Whether a process that enters it would stop: it, or one above it, is frozen."""
    if not group.exists():
        return False
    directory = group.paths.get("freezer")
    if directory is None:
        return group.frozen()
    try:
        with open(os.path.join(directory, "freezer.state"), "rb") as file:
            return file.read().strip() != b"THAWED"
    except OSError:  # other controllers have the group, this one does not
        return False


def _activated_fds(plan: ContainerPlan) -> int:
    """Descriptors of systemd's socket activation are passed on, with the variables that announce them."""
    count = os.environ.get("LISTEN_FDS", "")
    if not count.isdecimal() or os.environ.get("LISTEN_PID") != str(os.getpid()):
        return 0
    plan.process.env += [f"LISTEN_FDS={count}", "LISTEN_PID=1"]
    return int(count)


def _now() -> str:
    nanos = time.time_ns()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(nanos // 10**9)) + f".{nanos % 10**9:09d}Z"


def write_pid_file(path: str, pid: int) -> None:
    """Atomically: whoever waits for the file reads the whole number."""
    directory, name = os.path.split(os.path.abspath(path))
    temporary = os.path.join(directory, f".{name}")
    with kernel.reporting("open", temporary):
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        os.write(fd, str(pid).encode())
        os.close(fd)
        os.rename(temporary, path)


def check_terminal(terminal: bool, detach: bool, console_socket: str) -> None:
    """A terminal needs somebody at its other end.

    Raises:
        RuntimeFailure: nobody would be; in runc's words.
    """
    if terminal and detach and not console_socket:
        raise RuntimeFailure("cannot allocate tty if runc will detach without setting console socket")
    if console_socket and not (terminal and detach):
        raise RuntimeFailure("cannot use console socket if runc will not detach or allocate tty")


def warn_of_capabilities(config: Any, plan: ProcessPlan) -> None:
    """Say which names are not known, here or to this kernel; without them the container runs."""
    from services.executor.runtime.spec import capabilities

    unknown = capabilities.unknown(plan.capabilities)
    if unknown:
        config.warn(f"ignoring unknown or unavailable capabilities: [{' '.join(unknown)}]")
    for name in capabilities.not_ambient(plan.capabilities):
        config.warn(f"can't raise ambient capability {name}: operation not permitted")


def check_preserved(count: int) -> None:
    """Descriptors that are to be passed on must be there: the numbers would soon be those of our own files.

    Raises:
        RuntimeFailure: one is not.
    """
    for number in range(count):
        try:
            os.fstat(3 + number)
        except OSError:
            raise RuntimeFailure(
                f"please check that preserved-fd {number} (of {count}) is present: descriptor {3 + number} is not open"
            ) from None


def create(config: Any, options: dict[str, Any], arguments: list[str]) -> int:
    """`create <id>`: everything but execve."""
    container_id = lifecycle.one("create", arguments)
    with _named("create"):
        creation = Creation(config, options, container_id)
        check_terminal(creation.plan.process.terminal, True, options["console_socket"])
        launch = creation.make((0, 1, 2), stays=True)
        try:
            hand_over(launch, options)
        except BaseException:
            creation.undo()
            raise
    return 0


def hand_over(launch: Launch, options: dict[str, Any]) -> None:
    """Terminal and pidfd to the sockets named on the command line."""
    from services.executor.runtime.commands import foreground

    if launch.master is not None and options["console_socket"]:
        foreground.send_fd(options["console_socket"], b"/dev/pts/ptmx", launch.master)
    if options.get("pidfd_socket"):
        pidfd = os.pidfd_open(launch.pid)
        foreground.send_fd(options["pidfd_socket"], b"pidfd", pidfd)
        os.close(pidfd)


#: steps of the container's init before it concerns itself with the program
_WHILE_MAKING = frozenset({"mounts", "rootfs", "root", "masked paths", "sysctl", "working directory", "hostname"})


class _named:  # noqa: N801  (a context manager, read as a phrase)
    """Failures inside say which command failed, as runc's do; engines show the text to their users."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, RuntimeFailure):
            starting = "unable to start container process: " if error.step is not None else ""
            if error.step in _WHILE_MAKING:
                starting += "error during container init: "
            error.message = f"davit-runc {self.command} failed: {starting}{error.message}"
            error.args = (error.message,)


def run(config: Any, options: dict[str, Any], arguments: list[str]) -> int:
    """`run <id>`: create, start, and unless detached wait, copy, delete."""
    container_id = lifecycle.one("run", arguments)
    with _named("run"):
        return _run(Creation(config, options, container_id), options)


def _run(creation: Creation, options: dict[str, Any]) -> int:
    from services.executor.runtime.commands import foreground

    creation.guard_interpreter()
    detach, terminal = options["detach"], creation.plan.process.terminal
    check_terminal(terminal, detach, options["console_socket"])
    signals = -1 if detach else foreground.catch_signals()
    streams = foreground.Streams(terminal=terminal, detach=detach)
    launch = creation.make(streams.theirs, stays=False)
    streams.close_theirs()
    assert creation.container is not None
    ready = lifecycle.ready_listener(creation.container)
    try:
        if detach:
            hand_over(launch, options)
        elif launch.master is not None:
            streams.take_terminal(launch.master)
        launch.start()
        launch.until_running()
        creation.config.debug("init: closing the pipe to signal completion")
        lifecycle.run_poststart(creation.container)
        if detach and ready is not None:
            ready.wait(creation.container)
    except BaseException:
        streams.restore()
        creation.undo()
        raise
    if detach:
        return 0
    code = foreground.attend(launch.pid, streams, signals, ready)
    if not options["keep"]:
        lifecycle.destroy(creation.config, creation.container)
    return code
