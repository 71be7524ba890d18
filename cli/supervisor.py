"""The supervisor: starts the bus and the services, restarts what dies, and never takes containers along.

One thread, one poll loop, no event loop of asyncio. Its children get SIGKILL from the kernel when it dies, so that a
new supervisor (the guardian starts one) begins with a clean table; containers belong to their shims and go on.

::

    nats-server ─► migrations (a child that ends) ─► image network volume control agent api
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
import subprocess
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cli import enginelog, nats, state, warm
from cli.process import Identity, die_with_parent, set_title
from cli.state import EngineState, ProcessState
from shared.config import EngineConfig
from shared.errors import Conflict, DavitError
from shared.version import VERSION

log = logging.getLogger("davit.supervisor")

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
STEADY_AFTER_S = 10.0
READY_WITHIN_S = 45.0
STOP_WITHIN_S = 15.0
NATS_READY_WITHIN_S = 15.0
LOG_CHECKED_EVERY_S = 60.0
EXIT_CONFIGURATION = 78


class StartFailed(Exception):
    """The engine cannot start. `code` is the exit code for `davit up`."""

    def __init__(self, reason: str, code: int = 1) -> None:
        super().__init__(reason)
        self.code = code


@dataclass
class Child:
    """A process to keep running. `spawn` starts it and returns its pid and the pipe it reports on, if it does."""

    name: str
    spawn: Callable[[], tuple[int, int | None]]
    state: ProcessState = field(default_factory=ProcessState)
    pipe: int | None = None
    heard: bytes = b""
    pause_s: float = FIRST_PAUSE_S
    start_at: float | None = None

    @property
    def running(self) -> bool:
        return self.state.pid != 0


class Supervisor:
    """One engine's supervisor.

    Args:
        announce: Tells whoever started the engine: ``ready``, or ``error <code> <reason>``; called once.
        guardian: The process that restarts this one; watched, and replaced by `new_guardian` when it dies.
        private: Descriptors that services must not inherit.
        announcing: The descriptor `announce` writes to, closed once it has; neither must services inherit it.
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
        self._announcing = -1 if announcing is None else announcing
        self._guardian_fd = -1
        self._children: dict[str, Child] = {}
        self._listeners: dict[str, socket.socket] = {}
        self._stopping = False
        self._reload = False
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
        self._stop_all()
        state.remove_state(self._config.run_dir)
        return 0

    def _give_up(self, reason: str, code: int) -> int:
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
        self._migrate()
        if embedded:
            self._await_nats()
        for name in self._services:
            self._add(Child(name, lambda name=name: self._fork_service(name)))  # type: ignore[misc]
        self._await_ready()

    def _prepare_nats(self) -> None:
        binary = nats.find_binary()
        path, port = nats.prepare(self._config.data_root, self._config.run_dir, self._config.node)
        url = f"nats://127.0.0.1:{port}"
        self._state.nats_url = url
        self._config = self._config.model_copy(update={"nats_url": url})
        self._environment["DAVIT_NATS_URL"] = url
        self._add(Child("nats", lambda: (_spawn_nats(binary, path), None)))

    def _await_nats(self) -> None:
        address = ("127.0.0.1", int(self._state.nats_url.rpartition(":")[2]))
        give_up_at = time.monotonic() + NATS_READY_WITHIN_S
        while True:
            with contextlib.suppress(OSError), socket.create_connection(address, timeout=1) as probe:
                if probe.recv(5) == b"INFO ":
                    return
            self._reap()
            if self._children["nats"].state.restarts > 2 or time.monotonic() > give_up_at:
                log_file = self._config.data_root / "nats" / "nats.log"
                raise StartFailed(f"the embedded message bus does not start: see {log_file}")
            self._start_due()
            time.sleep(0.02)

    def _listen(self) -> None:
        """Bind what the API listens on, here, so that connections wait while the API is being restarted."""
        if "api" not in self._services:
            return
        from services.api.bootstrap import listeners_of

        try:
            listeners = listeners_of(self._config, {})
        except DavitError as error:
            raise StartFailed(str(error)) from error
        for listener in listeners:
            self._listeners[listener.host] = listener.socket
        pairs = (f"{listening.fileno()}:{host}" for host, listening in self._listeners.items())
        self._environment["DAVIT_LISTEN_FDS"] = ",".join(pairs)

    def _migrate(self) -> None:
        """Bring the databases up to date in a child, which takes what Alembic costs in memory with it."""
        reader, writer = os.pipe2(os.O_CLOEXEC)
        pid = _fork(lambda: _migrate_all(self._config, self._services, writer))
        os.close(writer)
        with os.fdopen(reader) as pipe:
            answer = pipe.read().strip()
        os.waitpid(pid, 0)
        if answer != "done":
            raise StartFailed(answer or "the databases could not be brought up to date")

    def _await_ready(self) -> None:
        give_up_at = time.monotonic() + READY_WITHIN_S
        while not self._stopping:
            waiting = [child for child in self._children.values() if child.state.state != "ready"]
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

    def _add(self, child: Child) -> None:
        self._children[child.name] = child
        self._state.processes[child.name] = child.state
        self._start(child)

    def _start(self, child: Child) -> None:
        pid, child.pipe = child.spawn()
        child.start_at, child.heard = None, b""
        identity = Identity.of(pid)
        current = child.state
        current.pid, current.start = pid, identity.start if identity else 0
        current.since, current.state = time.time(), "starting" if child.pipe is not None else "ready"
        self._save()

    def _fork_service(self, name: str) -> tuple[int, int | None]:
        reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        pid = _fork(lambda: self._become_service(name, writer))
        os.close(writer)
        return pid, reader

    def _become_service(self, name: str, writer: int) -> int:
        set_title(f"davit: {name}")
        pipes = [child.pipe for child in self._children.values() if child.pipe is not None]
        for descriptor in (self._woken, self._waker, self._guardian_fd, self._announcing, *pipes, *self._private):
            if descriptor >= 0:
                os.close(descriptor)
        if name != "api":
            for listener in self._listeners.values():
                listener.close()
        os.environ.update(self._environment)
        os.environ["DAVIT_READY_FD"] = str(writer)
        module = __import__(f"{warm.ENTRIES[name]}.__main__", fromlist=["main"])
        return int(module.main())

    def _reap(self) -> None:
        """Take notice of children that ended."""
        for child in self._children.values():
            if not child.running:
                continue
            try:
                pid, status = os.waitpid(child.state.pid, os.WNOHANG)
            except ChildProcessError:
                pid, status = child.state.pid, 0
            if pid:
                self._ended(child, status)

    def _ended(self, child: Child, status: int) -> None:
        self._hear(child)
        if child.pipe is not None:
            os.close(child.pipe)
            child.pipe = None
        ended = _describe(status)
        was_ready = child.state.state == "ready"
        if not child.state.problem and not was_ready and self._state.phase == "starting" and child.name != "nats":
            child.state.problem = f"it ended ({ended}) before it was ready; see the log"
        child.state.pid = 0
        child.state.state = "stopped" if self._stopping else "waiting"
        if self._stopping:
            return
        if time.time() - child.state.since > STEADY_AFTER_S:
            child.pause_s = FIRST_PAUSE_S
        log.warning("%s ended (%s); starting it again in %.1f s", child.name, ended, child.pause_s)
        child.state.restarts += 1
        child.start_at = time.monotonic() + child.pause_s
        child.pause_s = min(child.pause_s * 2, LONGEST_PAUSE_S)
        self._save()

    def _start_due(self) -> None:
        now = time.monotonic()
        for child in self._children.values():
            if child.start_at is not None and child.start_at <= now:
                child.state.problem = ""
                self._start(child)

    def _hear(self, child: Child) -> None:
        """What a service said about its start."""
        if child.pipe is None:
            return
        try:
            data = os.read(child.pipe, 4096)
        except BlockingIOError:
            return
        child.heard += data
        if b"\n" in child.heard or not data:
            os.close(child.pipe)
            child.pipe = None
            word, _, reason = child.heard.decode(errors="replace").strip().partition(" ")
            if word == "ready":
                child.state.state, child.state.problem = "ready", ""
            elif word == "error":
                child.state.problem = reason.partition(" ")[2]
            self._save()

    # -- loop -----------------------------------------------------------------------------------------------------

    def _take_signals(self) -> None:
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._told_to_stop)
        signal.signal(signal.SIGHUP, self._told_to_reload)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._watch_guardian()

    def _told_to_stop(self, *_: object) -> None:
        self._stopping = True

    def _told_to_reload(self, *_: object) -> None:
        self._reload = True

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
        if self._guardian_fd >= 0:
            poll.register(self._guardian_fd, select.POLLIN)
        pipes = {child.pipe: child for child in self._children.values() if child.pipe is not None}
        for pipe in pipes:
            poll.register(pipe, select.POLLIN)
        ready = {descriptor for descriptor, _ in poll.poll(self._timeout_ms())}
        if self._woken in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._woken, 4096)
        if self._stopping:
            return
        for pipe in pipes.keys() & ready:
            self._hear(pipes[pipe])
        if self._guardian_fd in ready or self._guardian_fd < 0:
            self._replace_guardian()
        self._reap()
        self._start_due()
        self._tend_log()
        if self._reload:
            self._reload = False
            self._signal_all(signal.SIGHUP)

    def _timeout_ms(self) -> int | None:
        due = [child.start_at for child in self._children.values() if child.start_at is not None]
        if due:
            return max(0, int((min(due) - time.monotonic()) * 1000) + 1)
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

    def _save(self) -> None:
        self._state.write(self._config.run_dir)

    # -- stop -----------------------------------------------------------------------------------------------------

    def _stop_all(self) -> None:
        """Stop the services together, then the bus. Containers are not touched."""
        self._stopping = True
        self._state.phase = "stopping"
        services = [child for child in self._children.values() if child.name != "nats"]
        self._stop(services)
        self._stop([child for child in self._children.values() if child.name == "nats"])
        for host, listener in self._listeners.items():
            listener.close()
            if host.startswith("unix://"):
                Path(host.removeprefix("unix://")).unlink(missing_ok=True)
        self._listeners.clear()

    def _stop(self, children: list[Child]) -> None:
        self._signal(children, signal.SIGTERM)
        give_up_at = time.monotonic() + STOP_WITHIN_S
        while any(child.running for child in children):
            self._reap()
            if time.monotonic() > give_up_at:
                self._signal(children, signal.SIGKILL)
            time.sleep(0.01)

    def _signal_all(self, number: int) -> None:
        self._signal([child for child in self._children.values() if child.name != "nats"], number)

    def _signal(self, children: list[Child], number: int) -> None:
        for child in children:
            if child.running:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child.state.pid, number)


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


def _spawn_nats(binary: Path, config: Path) -> int:
    parent = os.getpid()
    process = subprocess.Popen(
        ["nats-server", "-c", str(config)],
        executable=str(binary),
        env={**os.environ, **nats.ENVIRONMENT},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: die_with_parent(parent),  # noqa: PLW1509  # the supervisor has one thread
    )
    process.returncode = 0  # reaped by the supervisor's own waitpid, like every child
    return process.pid


def _migrate_all(config: EngineConfig, services: list[str], writer: int) -> int:
    import asyncio

    from shared import migrate
    from shared.database import Database

    async def each() -> None:
        for name in services:
            history = migrate.default_history(name)
            if history.is_dir():
                await (await Database.open(config.database, service=name, migrations=history)).close()

    set_title("davit: migrations")
    try:
        asyncio.run(each())
        answer = "done"
    except DavitError as error:
        answer = str(error)
    os.write(writer, answer.replace("\n", " ").encode())
    return 0


def _fork(work: Callable[[], int]) -> int:
    """Fork a child that does the work and ends with what it returns, or when this process ends; its pid."""
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        die_with_parent(parent)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        gc.enable()
        code = work()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            logging.shutdown()
        os._exit(code)
    raise AssertionError("not reached")


def _describe(status: int) -> str:
    if os.WIFSIGNALED(status):
        return f"signal {signal.Signals(os.WTERMSIG(status)).name}"
    return f"exit code {os.waitstatus_to_exitcode(status)}"
