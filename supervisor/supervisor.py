"""The supervisor: starts the bus and the services, restarts what dies, and never takes containers along.

One thread, one poll loop, no event loop of asyncio. Its children get SIGKILL from the kernel when it dies, so that a
new supervisor (the guardian starts one) begins with a clean table; containers belong to their shims and go on.

::

    nats-server ─► migrations (a child that ends) ─► image network volume control agent audit api
                                                       │ each writes "ready" or "error <code> <reason>" to its pipe
    a child ends ─► wait 0.1 s, doubling to 5 s, anew after 10 s of running ─► start it again
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from shared.cluster.membership import ClusterDirectory
from shared.config import EngineConfig
from shared.contracts.builds import socket_path
from shared.errors import Conflict, DavitError
from shared.version import VERSION
from supervisor import demand, enginelog, gate, migrations, nats, pidfile, state, warm
from supervisor.children import STOP_WITHIN_S, Child, Children
from supervisor.ownership import EXIT_LOST, Ownership, containers_below
from supervisor.process import Identity, fork, set_title
from supervisor.state import EngineState, ProcessState

log = logging.getLogger("davit.supervisor")

READY_WITHIN_S = 45.0
NATS_READY_WITHIN_S = 15.0
LOG_CHECKED_EVERY_S = 60.0
EXIT_CONFIGURATION = 78
# Children that are servers of the bus, and not services on it.
BUSES = ("nats", "gate")


class StartFailed(Exception):
    """The engine cannot start. `code` is the exit code for `davit up`."""

    def __init__(self, reason: str, code: int = 1) -> None:
        super().__init__(reason)
        self.code = code


class Supervisor:
    """One engine's supervisor.

    Args:
        announce: Tells whoever started the engine: ``ready``, or ``error <code> <reason>``; called once.
        guardian: The process that restarts this one; watched, and replaced by `new_guardian` when it dies.
        private: Descriptors that services must not inherit.
        announcing: The descriptor `announce` writes to, closed once it has; neither must services inherit it.
        ownership: Tells when the engine's directories are not its own any more.
        first: Whether the engine is just being started; one that is put back after a crash leaves its state on file
            when it cannot start, since the guardian tries again.
    """

    def __init__(
        self,
        config: EngineConfig,
        services: list[str],
        announce: Callable[[str], None],
        *,
        guardian: int,
        new_guardian: Callable[[], int],
        ownership: Ownership,
        private: Sequence[int] = (),
        announcing: int | None = None,
        first: bool = True,
    ) -> None:
        self._config = config
        self._services = services
        self._environment: dict[str, str] = {}
        self._first = first
        self._announce = announce
        self._guardian = guardian
        self._new_guardian = new_guardian
        self._private = tuple(private)
        self._ownership = ownership
        self._lost: Path | None = None
        self._announcing = -1 if announcing is None else announcing
        self._guardian_fd = -1
        self._listeners: dict[str, socket.socket] = {}
        self._demand: demand.DemandSocket | None = None
        self._stopping = False
        self._reload = False
        self._cluster_changed = False
        own = enginelog.path_of(config.data_root)
        self._log = own if enginelog.is_ours(own) else None
        self._log_due = 0.0
        self._woken, self._waker = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._state = EngineState(
            version=VERSION,
            node=config.node,
            data_root=str(config.data_root),
            run_dir=str(config.run_dir),
            hosts=config.api_hosts,
            nats_url=config.nats_url,
            nats_embedded=not config.nats_url,
            database="postgresql" if config.database_url else "sqlite",
            started=time.time(),
        )
        self._children = Children(self._state, self._save)

    def run(self) -> int:
        """Supervise until told to stop; the exit code."""
        gc.disable()  # a collection here would only unshare pages; children turn it on
        self._take_signals()
        try:
            end_leftovers(self._config.run_dir)
            self._start_all()
        except StartFailed as error:
            return self._give_up(str(error), error.code)
        except DavitError as error:
            return self._give_up(str(error), 1)
        self._state.phase = "running"
        self._save()
        self._announce("ready")
        self._announcing = -1  # closed: its number may be another descriptor's from now on
        while not self._stopping:
            self._turn()
        if self._lost is not None:
            return self._abandon(self._lost)
        self._stop_all()
        state.remove_state(self._config.run_dir)
        return 0

    def _abandon(self, directory: Path) -> int:
        """End the services of an engine whose directories are not its own; touch no file that may be another's."""
        agent = self._state.processes.get("agent")
        left = containers_below(agent.pid) if agent is not None and agent.pid else []
        self._stop_all()
        names = ", ".join(container[:12] for container in left) or "none"
        log.critical("%s is gone or another engine's: this engine ended; containers left running: %s", directory, names)
        return EXIT_LOST

    def _give_up(self, reason: str, code: int) -> int:
        if self._lost is not None:
            self._announce(f"error {EXIT_LOST} {self._lost} is gone or another engine's")
            return self._abandon(self._lost)
        log.error("the engine cannot start: %s", reason)
        self._stop_all()
        if self._first:
            state.remove_state(self._config.run_dir)
        else:
            self._state.phase = "waiting"
            self._state.processes = {"guardian": self._state.processes["guardian"]}
            self._save()
        self._announce(f"error {code} {reason}")
        return code

    # -- start ----------------------------------------------------------------------------------------------------

    def _start_all(self) -> None:
        embedded = not self._config.nats_url
        if embedded:
            self._prepare_nats()
        warm.warm_up(self._config, self._services)
        self._listen()
        self._listen_for_builds()
        self._migrate()
        if embedded:
            self._await_nats()
            self._tend_gate()
        for name in self._services:
            self._children.add(Child(name, lambda name=name: self._fork_service(name)))  # type: ignore[misc]
        if self._demand is not None:
            self._children.add_on_demand(Child(demand.NAME, self._fork_builds, demand=self._demand))
        self._await_ready()

    def _prepare_nats(self) -> None:
        binary = nats.find_binary()
        path, port = nats.prepare(self._config.data_root, self._config.run_dir, self._config.node)
        url = f"nats://127.0.0.1:{port}"
        self._state.nats_url = url
        self._config = self._config.model_copy(update={"nats_url": url})
        self._environment["DAVIT_NATS_URL"] = url
        self._environment["DAVIT_SUPERVISOR_PID"] = str(os.getpid())
        self._children.add(Child("nats", lambda: (nats.spawn(binary, path), None)))

    def _tend_gate(self) -> None:
        """Start the gate of a cluster's manager, have it read again who is let in, or end it after leaving."""
        data_root = self._config.data_root
        membership = ClusterDirectory(data_root).membership()
        if membership is None or membership.role != "manager":
            self._children.remove("gate")
            return
        path = gate.write_configuration(data_root, self._config.run_dir, membership)
        if "gate" in self._children:
            self._children.send([self._children["gate"]], signal.SIGHUP)
            return
        binary = nats.find_binary()
        self._children.add(Child("gate", lambda: (nats.spawn(binary, path), None)))

    def _await_nats(self) -> None:
        address = ("127.0.0.1", int(self._state.nats_url.rpartition(":")[2]))
        give_up_at = time.monotonic() + NATS_READY_WITHIN_S
        while True:
            with contextlib.suppress(OSError), socket.create_connection(address, timeout=1) as probe:
                if probe.recv(5) == b"INFO ":
                    return
            self._children.reap()
            if self._children["nats"].state.restarts > 2 or time.monotonic() > give_up_at:
                log_file = self._config.data_root / "nats" / "nats.log"
                raise StartFailed(f"the embedded message bus does not start: see {log_file}")
            self._children.start_due()
            time.sleep(0.02)

    def _listen_for_builds(self) -> None:
        """Bind what the process that serves builds listens on; it is started once somebody connects."""
        if "image" not in self._services:
            return
        path = socket_path(self._config.run_dir)
        try:
            self._demand = demand.DemandSocket(path)
        except OSError as error:
            raise StartFailed(f"{path} cannot be listened on: {error.strerror}") from error

    def _fork_builds(self) -> tuple[int, int | None]:
        return self._fork_service(demand.NAME)

    def _listen(self) -> None:
        """Bind what the API listens on, here, so that connections wait while the API is being restarted."""
        if "api" not in self._services:
            return
        from services.api.bootstrap import listeners_of

        try:
            activated = {host: int(host.removeprefix("fd://")) for host in self._config.api_hosts if "fd://" in host}
            listeners = listeners_of(self._config, activated)
        except DavitError as error:
            raise StartFailed(str(error)) from error
        for listener in listeners:
            self._listeners[listener.host] = listener.socket
        pairs = (f"{listening.fileno()}:{host}" for host, listening in self._listeners.items())
        self._environment["DAVIT_LISTEN_FDS"] = ",".join(pairs)

    def _migrate(self) -> None:
        problem = migrations.migrate_all(self._config, self._services)
        if problem:
            raise StartFailed(problem)

    def _await_ready(self) -> None:
        give_up_at = time.monotonic() + READY_WITHIN_S
        while not self._stopping:
            waiting = [child for child in self._children if child.state.state != "ready" and child.demand is None]
            for child in waiting:
                if child.state.problem:
                    raise StartFailed(f"service {child.name} cannot start: {child.state.problem}")
            if not waiting:
                return
            if time.monotonic() > give_up_at:
                names = ", ".join(child.name for child in waiting)
                raise StartFailed(f"not ready within {READY_WITHIN_S:.0f} s: {names}; see the log")
            self._turn()
        raise StartFailed("stopped while starting")

    # -- children -------------------------------------------------------------------------------------------------

    def _fork_service(self, name: str) -> tuple[int, int | None]:
        reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        pid = fork(lambda: self._become_service(name, writer))
        os.close(writer)
        return pid, reader

    def _become_service(self, name: str, writer: int) -> int:
        set_title(f"davit: {name}")
        pipes = [child.pipe for child in self._children if child.pipe is not None]
        own = (self._woken, self._waker, self._guardian_fd, self._announcing, self._ownership.descriptor)
        for descriptor in (*own, *pipes, *self._private):
            if descriptor >= 0:
                os.close(descriptor)
        if name != "api":
            for listener in self._listeners.values():
                listener.close()
        os.environ.update(self._environment)
        os.environ["DAVIT_READY_FD"] = str(writer)
        entry = warm.ENTRIES.get(name, demand.ENTRY)
        if self._demand is not None and name == demand.NAME:
            os.environ["DAVIT_LISTEN_FDS"] = self._demand.listening
        elif self._demand is not None:
            self._demand.socket.close()
        module = __import__(f"{entry}.__main__", fromlist=["main"])
        return int(module.main())

    # -- loop -----------------------------------------------------------------------------------------------------

    def _take_signals(self) -> None:
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._told_to_stop)
        signal.signal(signal.SIGHUP, self._told_to_reload)
        signal.signal(signal.SIGUSR1, self._told_of_the_cluster)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._watch_guardian()

    def _told_to_stop(self, *_: object) -> None:
        self._stopping = True

    def _told_to_reload(self, *_: object) -> None:
        self._reload = True

    def _told_of_the_cluster(self, *_: object) -> None:
        self._cluster_changed = True

    def _watch_guardian(self) -> None:
        if self._guardian_fd >= 0:
            os.close(self._guardian_fd)
        try:
            self._guardian_fd = os.pidfd_open(self._guardian)
        except ProcessLookupError:
            self._guardian_fd = -1
        identity = Identity.of(self._guardian)
        self._state.processes["guardian"] = ProcessState(
            pid=self._guardian, start=identity.start if identity else 0, state="ready", since=time.time()
        )
        own = Identity.of(os.getpid())
        self._state.processes["supervisor"] = ProcessState(
            pid=os.getpid(), start=own.start if own else 0, state="ready", since=self._state.started
        )

    def _turn(self) -> None:
        """Wait for something to happen, and deal with it."""
        poll = select.poll()
        poll.register(self._woken, select.POLLIN)
        poll.register(self._ownership.descriptor, select.POLLIN)
        if self._guardian_fd >= 0:
            poll.register(self._guardian_fd, select.POLLIN)
        pipes = {child.pipe: child for child in self._children if child.pipe is not None}
        for pipe in pipes:
            poll.register(pipe, select.POLLIN)
        wanted = {child.demand.socket.fileno(): child for child in self._children.wanted() if child.demand is not None}
        for listening in wanted if self._state.phase == "running" else ():
            poll.register(listening, select.POLLIN)
        ready = {descriptor for descriptor, _ in poll.poll(self._timeout_ms())}
        if self._woken in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._woken, 4096)
        if self._ownership.descriptor in ready:
            self._ownership.drain()
            self._look_after_directories()
        if self._stopping:
            return
        for pipe in pipes.keys() & ready:
            self._children.hear(pipes[pipe])
        if self._guardian_fd in ready or self._guardian_fd < 0:
            self._replace_guardian()
        self._children.reap()
        self._children.start_due()
        for listening in wanted.keys() & ready:
            self._children.start(wanted[listening])
        self._tend_log()
        if self._cluster_changed:
            self._cluster_changed = False
            self._tend_gate_or_say_why()
        if self._reload:
            self._reload = False
            self._children.send((child for child in self._children if child.name not in BUSES), signal.SIGHUP)

    def _tend_gate_or_say_why(self) -> None:
        try:
            self._tend_gate()
        except (DavitError, OSError) as error:  # what was in force stays so
            log.error("the cluster's gate was not brought up to date: %s", error)

    def _timeout_ms(self) -> int | None:
        due = self._children.next_due()
        if due is not None:
            return max(0, int((due - time.monotonic()) * 1000) + 1)
        if self._state.phase != "running":
            return 1000
        return int(LOG_CHECKED_EVERY_S * 1000) if self._log is not None else None

    def _tend_log(self) -> None:
        now = time.monotonic()
        if self._log is None or now < self._log_due:
            return
        self._log_due = now + LOG_CHECKED_EVERY_S
        try:
            enginelog.rotate_if_large(self._log)
        except OSError as error:
            log.warning("the log %s cannot be rotated: %s", self._log, error)

    def _replace_guardian(self) -> None:
        log.warning("the guardian ended; a new one takes its place")
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._guardian, os.WNOHANG)
        self._guardian = self._new_guardian()
        self._watch_guardian()
        self._save()

    def _look_after_directories(self) -> None:
        self._lost = self._ownership.lost()
        if self._lost is not None:
            self._stopping = True

    def _save(self) -> None:
        """Write down how things are, unless the directory for it is not this engine's any more."""
        self._look_after_directories()
        if self._lost is None:
            try:
                self._state.write(self._config.run_dir)
            except FileNotFoundError:  # deleted this very moment; the kernel tells of it
                log.warning("%s is gone", self._config.run_dir)

    # -- stop -----------------------------------------------------------------------------------------------------

    def _stop_all(self) -> None:
        """Stop the services together, then the bus. Containers are not touched, unless they are to end as well."""
        self._stopping = self._children.stopping = True
        self._state.phase = "stopping"
        if not self._config.live_restore:
            # The agent first: what it tells of the containers that it ends is to be heard.
            within_s = STOP_WITHIN_S + self._config.stop_within_s
            self._children.stop([child for child in self._children if child.name == "agent"], within_s)
        self._children.stop(child for child in self._children if child.name not in BUSES)
        self._children.stop(child for child in self._children if child.name in BUSES)
        for host, listener in self._listeners.items():
            listener.close()
            if host.startswith("unix://") and self._lost is None:
                Path(host.removeprefix("unix://")).unlink(missing_ok=True)
        self._listeners.clear()
        if self._demand is not None:
            self._demand.close()
        if self._config.pidfile:
            pidfile.remove(Path(self._config.pidfile), self._guardian)


def end_leftovers(run_dir: Path) -> None:
    """SIGKILL what an earlier supervisor of this run directory left; it was killed, or its children would be gone."""
    earlier = state.EngineState.read(run_dir)
    if earlier is None:
        return
    own = os.getpid()
    for name, process in earlier.processes.items():
        identity = process.identity
        if identity is None or name == "guardian" or identity.pid == own:
            continue
        if identity.send(signal.SIGKILL):
            log.warning("ended %s (pid %d), left by an earlier supervisor", name, identity.pid)
        if not identity.wait(5):
            raise Conflict(f"{name} (pid {identity.pid}) of an earlier engine does not end")
