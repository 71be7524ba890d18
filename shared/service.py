"""The frame of every service: configuration, logs, bus, database, health, signals and an orderly end.

``def main() -> int: return service.run("volume", bootstrap.start)``: `start` registers handlers and spawns loops, and
returns when the service can serve. Until then the process is not ready; afterwards it runs until SIGTERM or SIGINT,
or until an owned task fails, which ends the process with an error for the supervisor to see.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared import failpoints, logs
from shared.bus import health
from shared.bus.client import Bus, Empty, node_token
from shared.bus.context import RequestContext, use_context
from shared.bus.credentials import credentials
from shared.bus.health import Health
from shared.clock import Clock, SystemClock
from shared.cluster.membership import ClusterDirectory
from shared.cluster.users import bus_user
from shared.config import EngineConfig, ProcessSettings, unknown_variables
from shared.errors import Conflict, DavitError, InvalidArgument, Unsupported
from shared.events.relay import Relay
from shared.state import migrate
from shared.state.database import Database
from shared.version import VERSION

EXIT_FAILURE = 1
EXIT_CONFIGURATION = 78  # sysexits.h EX_CONFIG: trying again does not help
STOP_WITHIN_S = 10.0

log = logging.getLogger(__name__)


@dataclass
class ServiceContext:
    """What `start` gets, and joins the service's parts with.

    Attributes:
        node: This machine's name.
        database: The service's own; None for services without one.
        stop_within_s: How long the closers may take together.
    """

    name: str
    config: EngineConfig
    bus: Bus
    database: Database | None
    node: str
    clock: Clock
    log: logs.StructuredLogger
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _closers: list[Callable[[], Awaitable[None]]] = field(default_factory=list)
    _reloaders: list[Callable[[EngineConfig], Awaitable[None]]] = field(default_factory=list)
    _stop: asyncio.Event = field(default_factory=asyncio.Event)
    _failed: bool = False
    stop_within_s: float = STOP_WITHIN_S

    def spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run a background task that the process owns: cancelled at the end; its failure ends the process."""
        with use_context(RequestContext(actor=f"system:{self.name}")):
            task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        return task

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.log.error("a background task failed", task=task.get_name(), exc_info=error)
            self._failed = True
            self._stop.set()

    def on_close(self, close: Callable[[], Awaitable[None]]) -> None:
        """Call at the end, the last one first, while bus and database are still there."""
        self._closers.append(close)

    def tell_supervisor(self) -> None:
        """Have the cluster's files read again by whoever keeps its gate."""
        pid = ProcessSettings.load().supervisor_pid
        if pid:
            os.kill(pid, signal.SIGUSR1)

    def on_reload(self, reload: Callable[[EngineConfig], Awaitable[None]]) -> None:
        """Call with the new configuration after SIGHUP."""
        self._reloaders.append(reload)

    def stop(self) -> None:
        """Have the process end in good order."""
        self._stop.set()

    @property
    def required_database(self) -> Database:
        """The database, for services that are never run without one."""
        assert self.database is not None, f"service {self.name} runs without a database"
        return self.database


Start = Callable[[ServiceContext], Awaitable[None]]


def run(name: str, start: Start, *, database: bool = True, config: EngineConfig | None = None) -> int:
    """Run a service until it is told to stop.

    Args:
        config: For tests; read from file and environment when None.

    Returns:
        The process's exit code: 0 after an orderly stop, 78 for a configuration that cannot work, 1 otherwise.
    """
    process = ProcessSettings.load()
    try:
        config = config or EngineConfig.load()
        failpoints.configure(process.failpoints)
    except DavitError as error:
        print(f"davit {name}: {error}", file=sys.stderr)  # noqa: T201  # there is no log yet
        _report(process.ready_fd, f"error {EXIT_CONFIGURATION} {error}")
        return EXIT_CONFIGURATION
    logs.configure(name, level=config.python_log_level, json=config.log_format == "json")
    if process.ready_fd is None:  # else whoever started the engine was told
        for variable in unknown_variables():
            log.warning("%s in the environment is no setting of the engine: ignored", variable)
    return _loop_runner().run(_Service(name, start, config, process, with_database=database).run())


def _loop_runner() -> asyncio.Runner:
    import uvloop

    return asyncio.Runner(loop_factory=uvloop.new_event_loop)


def _report(ready_fd: int | None, text: str) -> None:
    """Tell the supervisor, once."""
    if ready_fd is None:
        return
    with contextlib.suppress(OSError):  # the supervisor is gone, or this was said already
        os.write(ready_fd, text.replace("\n", " ").encode() + b"\n")
        os.close(ready_fd)


class _Service:
    """One run of a service."""

    def __init__(
        self, name: str, start: Start, config: EngineConfig, process: ProcessSettings, *, with_database: bool
    ) -> None:
        self._name = name
        self._start = start
        self._config = config
        self._process = process
        self._with_database = with_database
        self._log = logs.StructuredLogger(logging.getLogger(f"davit.{name}"))
        self._started_ns = time.time_ns()
        self._relay: Relay | None = None
        self._context: ServiceContext | None = None

    async def run(self) -> int:
        try:
            context = await self._assemble()
        except DavitError as error:
            return self._failed_start(error)
        try:
            with use_context(RequestContext(actor=f"system:{self._name}")):
                await self._start(context)
                await self._serve_health(context)
        except DavitError as error:
            await self._shut_down(context)
            return self._failed_start(error)
        except BaseException as error:
            self._log.critical("the service cannot start", exc_info=error)
            await self._shut_down(context)
            _report(self._process.ready_fd, f"error {EXIT_FAILURE} {type(error).__name__}: {error}")
            return EXIT_FAILURE
        self._log.info("ready", version=VERSION, config=self._config.loggable())
        _report(self._process.ready_fd, "ready")
        await context._stop.wait()
        self._log.info("stopping")
        await self._shut_down(context)
        return EXIT_FAILURE if context._failed else 0

    def _failed_start(self, error: DavitError) -> int:
        self._log.critical("the service cannot start", reason=str(error))
        hopeless = isinstance(error, Conflict | InvalidArgument | Unsupported)
        code = EXIT_CONFIGURATION if hopeless else EXIT_FAILURE
        _report(self._process.ready_fd, f"error {code} {error}")
        return code

    async def _assemble(self) -> ServiceContext:
        if not self._config.nats_url:
            raise InvalidArgument("no bus: set nats-url (DAVIT_NATS_URL), or start with davit up", field="nats-url")
        bus, database = await _both(self._connect(), self._open_database())
        context = ServiceContext(self._name, self._config, bus, database, self._config.node, SystemClock(), self._log)
        self._context = context
        if self._name == "agent":
            bus.stream_scope = f"{node_token(self._config.node)}."
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, context._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload_soon)
        if database is not None:
            self._relay = Relay(database, bus, retention_s=self._config.event_retention_s)
            context.spawn(self._relay.run(), name="relay")
        return context

    async def _connect(self) -> Bus:
        """As a user of the embedded bus, or as a node of a cluster, whose certificate says who it is."""
        config, name = self._config, f"{self._name}@{self._config.node}"
        if config.nats_url.startswith("tls://"):
            directory = ClusterDirectory(config.data_root)
            user = bus_user(config.node)
            return await Bus.connect(config.nats_url, name=name, user=user, tls=directory.client_context())
        user_name, password = credentials(config, self._name)
        return await Bus.connect(config.nats_url, name=name, user=user_name, password=password)

    async def _open_database(self) -> Database | None:
        if not self._with_database:
            return None
        history: Path = migrate.default_history(self._name)
        return await Database.open(self._config.database, service=self._name, migrations=history)

    def _reload_soon(self) -> None:
        assert self._context is not None
        self._context.spawn(self._reload(), name="reload")

    async def _reload(self) -> None:
        assert self._context is not None
        try:
            config = EngineConfig.load()
        except DavitError as error:
            self._log.error("the configuration was not reloaded", reason=str(error))
            return
        logs.set_level(config.python_log_level)
        for reload in self._context._reloaders:
            try:
                await reload(config)
            except DavitError as error:  # what was in force stays so
                self._log.error("a part of the configuration was not reloaded", reason=str(error))
        self._log.info("configuration reloaded", config=config.loggable())

    async def _serve_health(self, context: ServiceContext) -> None:
        async def answer(_request: Empty) -> Health:
            return await self._health(context)

        # A queue group of its own, so that every copy is asked.
        await context.bus.serve(health.contract(self._name), answer, queue=f"health-{secrets.token_hex(6)}")

    async def _health(self, context: ServiceContext) -> Health:
        state = Health(
            service=self._name,
            pid=os.getpid(),
            node=context.node,
            version=VERSION,
            started_ns=self._started_ns,
        )
        database = context.database
        if database is None:
            return state
        state.database = "sqlite" if database.is_sqlite else "postgresql"
        try:
            state.recorded = await asyncio.wait_for(database.recorded_events(), 1)
        except (DavitError, TimeoutError) as error:
            state.healthy, state.problem = False, str(error) or "the database does not answer"
        if self._relay is not None and self._relay.active:
            state.published = self._relay.position
        return state

    async def _shut_down(self, context: ServiceContext) -> None:
        try:
            async with asyncio.timeout(context.stop_within_s):
                await context.bus.stop_serving()
                await _close_all(context)
        except TimeoutError:
            self._log.warning("stopped without waiting any longer", timeout_s=context.stop_within_s)
        if context.database is not None:
            await context.database.close()
        await context.bus.close()


async def _close_all(context: ServiceContext) -> None:
    """Closers, the last one first, then the owned tasks."""
    for close in reversed(context._closers):
        try:
            await close()
        except Exception as error:  # the others are to be closed all the same
            context.log.error("closing failed", exc_info=error)
    tasks = list(context._tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _both(
    connecting: Coroutine[Any, Any, Bus], opening: Coroutine[Any, Any, Database | None]
) -> tuple[Bus, Database | None]:
    """Connect and open at the same time; when one fails, neither stays."""
    bus, database = await asyncio.gather(connecting, opening, return_exceptions=True)
    for result in (bus, database):
        if isinstance(result, BaseException):
            for other in (bus, database):
                if isinstance(other, Bus | Database):
                    await other.close()
            raise result
    return bus, database
