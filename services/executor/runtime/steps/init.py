"""The child: what happens between clone and execve of the container's first process, in order.

Each step of `STEPS` says why it is where it is. A failure at any of them travels to the parent as data and ends the
process. Nothing here returns to the code that cloned.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` itself costs an enum module
import _socket
import errno
import os
import sys

from services.executor.runtime.errors import KernelFailure, RuntimeFailure
from services.executor.runtime.kernel import beneath
from services.executor.runtime.kernel import calls as kernel
from services.executor.runtime.steps import (
    command,
    credentials,
    devices,
    hooks,
    masks,
    namespaces,
    rlimits,
    rootfs,
    scheduling,
    sysctl,
    tty,
    users,
)
from services.executor.runtime.steps.mounts import Mounter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from services.executor.runtime.launch.sync import Channel
    from services.executor.runtime.spec.plan import ContainerPlan, ProcessPlan


class Init:
    """A container's first process before it is one.

    Attributes:
        plan: what to do.
        channel: to the parent.
        namespace_fds: of the namespaces to join that the stage did not.
        stub: descriptor of the stub, for a process that is executed by way of it.
        root: descriptor of the rootfs, from `root` to `enter`.
        master: the terminal's end for the parent, or None.
    """

    def __init__(
        self, plan: ContainerPlan, channel: Channel, namespace_fds: dict[str, int], stub: int | None = None
    ) -> None:
        self.plan = plan
        self.channel = channel
        self.namespace_fds = namespace_fds
        self.stub = stub
        self.root = -1
        self.master: int | None = None
        self.slave: int | None = None

    def session(self) -> None:
        """A session of its own: signals to the runtime's terminal do not reach it. No umask: modes are exact."""
        os.setsid()
        os.umask(0)

    def namespaces(self) -> None:
        """Join the rest and get a cgroup namespace, now that we are in our cgroup: its root is where we are."""
        namespaces.join(self.namespace_fds, self.plan.namespaces.paths)
        if "cgroup" in self.plan.namespaces.new:
            kernel.unshare(kernel.CLONE_NEWCGROUP)
        if "network" in self.plan.namespaces.new:
            namespaces.raise_loopback()
        self._take_network_devices()

    def _take_network_devices(self) -> None:
        """Before an outer hook looks at the network, and while /proc still shows our namespaces."""
        devices = self.plan.linux.get("netDevices")
        if not devices:
            return
        from services.executor.runtime.steps import netdevices

        netdevices.check_free(devices)
        own = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self.channel.send("network", (own,), devices=devices)
        os.close(own)
        moved, _ = self.channel.expect("moved")
        netdevices.set_up(moved["devices"])

    def keyring(self) -> None:
        """A session keyring of its own, while nothing yet filters system calls."""
        if self.plan.new_keyring:
            kernel.join_session_keyring(f"_ses.{self.plan.container_id}")

    def priority(self) -> None:
        """Needs CAP_SYS_NICE: before capabilities go."""
        scheduling.apply(self.plan.process.scheduler, self.plan.process.ioprio)

    def mounts(self) -> None:
        """The rootfs and everything below it, all by descriptors, while the host's files are still there to mount."""
        plan = self.plan
        own = plan.namespaces.has("mount")
        self.root = rootfs.prepare(plan.root_path, plan.overlay, plan.spec, own_namespace=own)
        mounter = Mounter(
            self.root,
            cgroup_paths=plan.cgroup_paths,
            cgroup_namespace=plan.namespaces.has("cgroup"),
            label=plan.linux.get("mountLabel") or "",
            fallback=plan.mount_fallback,
        )
        mounter.apply(plan.mounts)
        self.root = mounter.root
        if self._owns_dev():
            with kernel.reporting("mknod", "/dev"):
                devices.create(self.root, plan.devices, by_bind=plan.namespaces.has("user"))
            devices.link_defaults(self.root)
        if plan.process.terminal:
            self.master, self.slave = tty.open_pair(self.root)
            tty.bind_console(self.root, self.slave)
        # after the last node in a /dev that is to be read-only
        mounter.seal()

    def _owns_dev(self) -> bool:
        """Whether /dev is the container's: one that is bind-mounted belongs to somebody else."""
        return not any(mount.destination == "/dev" and mount.kind == "bind" for mount in self.plan.mounts)

    def sysctl(self) -> None:
        """While the host's /proc, which shows our namespaces, is there and writable."""
        sysctl.apply(self.plan.linux.get("sysctl") or {})

    def paths(self) -> None:
        """Read-only first: a path may be in both lists, and hidden counts."""
        if not self.plan.namespaces.has("mount"):
            return
        masks.make_read_only(self.root, self.plan.linux.get("readonlyPaths") or [])
        masks.hide(self.root, self.plan.linux.get("maskedPaths") or [])

    def working_directory(self) -> None:
        """Made when the image lacks it, as runc does; before the rootfs turns read-only."""
        os.close(beneath.make_directory(self.root, self.plan.process.cwd))

    def outer_hooks(self) -> None:
        """createRuntime hooks run in the runtime's namespaces (by the parent), createContainer hooks in ours."""
        plan = self.plan
        if plan.hooks.get("prestart") or plan.hooks.get("createRuntime"):
            outer = {kind: plan.hooks[kind] for kind in ("prestart", "createRuntime") if plan.hooks.get(kind)}
            self.channel.send("hooks", hooks=outer, state=plan.state("creating", 0))
            self.channel.expect("hooked")
        if plan.hooks.get("createContainer"):
            state = plan.state("creating", own_pid())
            hooks.run("createContainer", plan.hooks, state, plan.process.environment(), directory=self.root)

    def enter(self) -> None:
        """Change the root. The descriptor of the old one is closed on the way; nothing refers to the host from here."""
        plan = self.plan
        if plan.namespaces.has("mount"):
            rootfs.enter(self.root, pivot=plan.pivot, path=plan.root_path)
            rootfs.finish(plan.spec)
        else:
            rootfs.enter_shared(self.root, plan.root_path, plan.spec)
        os.close(self.root)

    def names(self) -> None:
        """After joining: a UTS namespace given by path may be shared, then the spec must not name a host."""
        spec = self.plan.spec
        if spec.get("hostname"):
            kernel.sethostname(spec["hostname"])
        if spec.get("domainname"):
            kernel.setdomainname(spec["domainname"])

    def console(self) -> None:
        """Adopt the terminal last of what uses standard error."""
        if self.slave is None:
            return
        rows, columns = self.plan.process.console_size
        if rows or columns:
            tty.set_size(self.slave, rows, columns)
        tty.use(self.slave)
        tty.take_control()

    def process(self) -> None:
        """Identity, privileges, execve."""
        ready_fds = () if self.master is None else (self.master,)
        finish(
            self.plan.process,
            self.channel,
            ready_fds=ready_fds,
            plan=self.plan,
            preserve_fds=self.plan.preserve_fds,
            stub=self.stub,
        )


def close_others(channel: Channel, keep: set[int]) -> None:
    """Close every descriptor above the standard ones but these; those that a container inherits are kept too."""
    wanted = sorted(fd for fd in {*keep, channel.fileno()} if fd > 2)
    previous = 2
    for fd in wanted:
        if fd > previous + 1:
            os.closerange(previous + 1, fd)
        previous = fd
    kernel.close_from(previous + 1)


STEPS: tuple[tuple[str, Callable[[Init], None]], ...] = (
    ("session", Init.session),
    ("namespaces", Init.namespaces),
    ("keyring", Init.keyring),
    ("priority", Init.priority),
    ("mounts", Init.mounts),
    ("sysctl", Init.sysctl),
    ("working directory", Init.working_directory),
    ("masked paths", Init.paths),
    ("hooks", Init.outer_hooks),
    ("root", Init.enter),
    ("hostname", Init.names),
    ("console", Init.console),
    ("process", Init.process),
)


def own_pid() -> int:
    """Our id as the runtime's /proc shows it, while that is still mounted."""
    return int(os.readlink("/proc/self"))


def run(init: Init) -> NoReturn:
    """Become the container, or report why not and end."""

    def steps() -> None:
        for name, step in STEPS:
            try:
                step(init)
            except RuntimeFailure as failure:
                raise failure.at(name) from None
            except OSError as error:
                raise KernelFailure(name, error.filename or "", error.errno or 0, step=name) from error

    guarded(init.channel, steps)


def guarded(channel: Channel, action: Callable[[], None]) -> NoReturn:
    """Run `action`, which is to end in execve; report what it raises, and end the process either way."""
    # the parent's descriptor for signals will be closed here; a signal would complain about it on standard error
    _signal.set_wakeup_fd(-1)
    try:
        action()
    except RuntimeFailure as failure:
        channel.send("error", error=failure.to_wire())
    except BaseException:
        channel.send("error", error=RuntimeFailure(f"unexpected failure: {_place()}").to_wire())
    finally:
        os._exit(1)


def _place() -> str:
    """The exception being handled and where it came from; the module that usually says so cannot be imported here."""
    kind, error, trace = sys.exc_info()
    places = []
    while trace is not None:
        places.append(f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}")
        trace = trace.tb_next
    return f"{kind.__name__ if kind else ''}: {error} at {' > '.join(places)}"


def seal_interpreter() -> None:
    """No imports from here on: module paths would soon mean files of the container, run with the host's privileges."""
    sys.meta_path.clear()
    sys.path.clear()
    sys.path_hooks.clear()


def finish(
    process: ProcessPlan,
    channel: Channel,
    *,
    ready_fds: tuple[int, ...] = (),
    plan: ContainerPlan | None = None,
    before_exec: Callable[[], None] | None = None,
    preserve_fds: int = 0,
    stub: int | None = None,
) -> None:
    """From root in the container's namespaces to the container's program; shared by containers and execs.

    Args:
        ready_fds: to send to the parent with "ready".
        plan: of the container, when this is its first process.
        before_exec: run when privileges are gone, just before waiting and execve.
        stub: descriptor of the stub to execute the program by way of.
    """
    environment = process.environment()
    identity = identity_of(process, environment)
    rlimits.apply(process.rlimits)
    if process.personality is not None:
        kernel.personality({"LINUX": 0, "LINUX32": 8}[process.personality])
    if process.memory_policy is not None:
        process.memory_policy.apply()
    if process.no_new_privileges:
        kernel.set_no_new_privileges()
    credentials.label(process)
    # in the container's own user namespace, and before the user changes: terminals belong to whom runs in them
    credentials.own_standard_streams(identity.uid)
    entered = _enter_directory(process.cwd, final=False)
    credentials.change_user(process, identity)
    if not entered:
        _enter_directory(process.cwd, final=True)
    os.umask(0o022 if process.umask is None else process.umask)
    path = credentials.with_final_capabilities(process, lambda: command.find(process.args[0], environment))

    def ready() -> None:
        if process.die_with_parent:
            kernel.set_parent_death_signal(9)  # every change of user clears it, and a child does not inherit it
        channel.send("ready", ready_fds, wait=process.wait, path=path)
        for fd in ready_fds:
            os.close(fd)
        if process.wait:
            _await_start(plan.start_listener if plan is not None else None, channel)
        kernel.restore_signals()
        kernel.close_from(3 + preserve_fds, on_exec=True)

    early = process.seccomp is not None and not process.no_new_privileges
    # Its last preparations need no privileges; but where a filter is on by then, they need its consent.
    joins_first = before_exec is not None and early and not credentials.filter_permits_joining(process)
    if joins_first and before_exec is not None:
        before_exec()
    ready_first = early and not process.wait and (before_exec is None or joins_first)
    if ready_first:
        ready()
    if early:
        credentials.install_filter_privileged(process, channel)
    credentials.drop(process)
    if before_exec is not None and not joins_first:
        before_exec()
    if not ready_first:
        ready()
    if process.seccomp is not None and process.no_new_privileges:
        # as late as can be: the filter need not allow what came before; but hooks are of the container
        credentials.install_filter(process, channel)
    if plan is not None and plan.hooks.get("startContainer"):
        hooks.run("startContainer", plan.hooks, plan.state("created", os.getpid()), environment)
    if stub is not None:
        from services.executor.runtime.steps import execstub

        execstub.execute(stub, channel.fileno(), path, process.args, environment)
    command.execute(path, process.args, environment)


def identity_of(
    process: ProcessPlan, environment: dict[str, str], read: Callable[[str], list[list[str]]] = users.read_database
) -> users.Identity:
    """Who to be, by the container's own files, which `read` reads; HOME from there too when there is none."""
    identity = users.Identity(process.uid, process.gid, process.groups, None)
    if process.user or process.group_add:
        group = read("/etc/group")
        if process.user:
            identity = users.resolve(process.user, read("/etc/passwd"), group)
            identity.groups = [identity.gid, *identity.groups, *process.groups]
        identity.groups = [*identity.groups, *(users.resolve_group(name, group) for name in process.group_add)]
        identity.groups = list(dict.fromkeys(identity.groups))
    if not environment.get("HOME"):
        home = identity.home or users.home_of(identity.uid, read("/etc/passwd"))
        environment["HOME"] = home or "/"
    return identity


def _enter_directory(cwd: str, *, final: bool) -> bool:
    """chdir, and make sure that it is inside: a descriptor leaked by a caller must not become the way out.

    Tried before the change of user, and once more after it (`final`): the one may enter what the other may not.
    """
    try:
        os.chdir(cwd)
    except OSError as error:
        if not final and error.errno == errno.EACCES:
            return False
        reason = os.strerror(error.errno or 0).lower()
        raise RuntimeFailure(
            f'chdir to cwd ("{cwd}") set in config.json failed: {reason}', step="cwd", errno=error.errno
        ) from None
    try:
        os.getcwd()
    except OSError as error:
        if error.errno == errno.ENOENT:
            raise RuntimeFailure(
                "current working directory is outside of container mount namespace root", step="cwd"
            ) from None
        raise
    return True


def _end_by_signals() -> None:
    """What would end any other process ends this one too, although it may be the first of its pid namespace."""
    ending = (_signal.SIGHUP, _signal.SIGINT, _signal.SIGQUIT, _signal.SIGTERM)
    for number in ending:
        _signal.signal(number, lambda caught, _frame: os._exit(128 + caught))
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, ending)


def _await_start(listener: _socket.socket | None, channel: Channel) -> None:
    """Stop until told to run: by the parent, or by whoever connects when the parent does not stay.

    That one then takes the parent's place: it hears of a failure, and of success by the end of the connection.
    """
    _end_by_signals()
    if listener is None:
        if channel.receive() is None:
            os._exit(0)
        return
    accepted, _ = listener._accept()  # type: ignore[attr-defined]
    previous = channel.socket
    channel.socket = _socket.socket(fileno=accepted)
    os.set_inheritable(accepted, False)
    previous.close()
    listener.close()
