"""`davit down`: end the engine; containers go on, unless ``--containers``."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import click

from cli.common import exits
from cli.common.engine import Engine, engine_options
from shared.docker.client import EngineClient
from shared.errors import DavitError
from supervisor.process import Identity
from supervisor.state import EngineState, remove_state

STOP_WITHIN_S = 40.0
_ASKED_WITHIN_S = 3.0
_NAMED_AT_MOST = 5


@click.command()
@engine_options
@click.option("--containers", is_flag=True, help="Stop all containers first.")
@click.option("-t", "--timeout", type=int, metavar="SECONDS", help="For each container.")
def command(engine: Engine, *, containers: bool, timeout: int | None) -> int:
    """Stop the engine; containers go on.

    Ends with 0 also when there was none to stop.

    \b
    Examples:
      davit down
      davit down --containers --timeout 2
    """
    return down(engine.run_dir, containers=containers, timeout_s=timeout)


def down(run_dir: Path, *, containers: bool, timeout_s: int | None) -> int:
    """Stop the engine of a run directory, and say what was done; the exit code."""
    state = EngineState.read(run_dir)
    if state is None:
        click.echo(f"davit is not running in {run_dir}", err=True)
        return exits.OK
    alone = "api" not in state.processes
    if containers and not alone and not _stop_containers(state, timeout_s):
        return exits.FAILURE
    left = "" if containers and alone else _left_running(state)
    _end(state)
    if containers and alone:
        # A node of a cluster has no API to ask; and while its agent lives, it starts again what its policies say.
        left = _end_containers(state, timeout_s)
    remove_state(run_dir)
    click.echo(f"stopped the engine in {run_dir} ({len(state.processes)} processes); {left}")
    return exits.OK


def _client(state: EngineState) -> EngineClient | None:
    host = next((host for host in state.hosts if host.startswith("unix://")), None)
    return EngineClient(host) if host else None


def _left_running(state: EngineState) -> str:
    """The containers that go on, in words."""
    client = _client(state)
    if client is None or "api" not in state.processes:
        return "its containers go on"
    try:
        running = client.get("/containers/json", timeout_s=_ASKED_WITHIN_S)
    except DavitError:
        return "its containers go on"
    names = [container["Names"][0].removeprefix("/") for container in running if container["Names"]]
    if not names:
        return "no container runs"
    more = f" and {len(names) - _NAMED_AT_MOST} more" if len(names) > _NAMED_AT_MOST else ""
    listed = ", ".join(names[:_NAMED_AT_MOST]) + more
    return f"{len(names)} container{'s go' if len(names) > 1 else ' goes'} on: {listed}"


def _end_containers(state: EngineState, timeout_s: int | None) -> str:
    """Stop the containers of an engine that has ended, by their shims; what came of it, in words."""
    import asyncio

    from services.executor.agent.containers.orphans import end_all

    ended, failures = asyncio.run(end_all(Path(state.data_root), Path(state.run_dir), timeout_s))
    for failure in failures:
        click.echo(f"davit: not stopped: {failure}", err=True)
    return f"stopped {ended} containers" if ended or failures else "no container ran"


def _stop_containers(state: EngineState, timeout_s: int | None) -> bool:
    from concurrent.futures import ThreadPoolExecutor

    client = _client(state)
    if client is None:
        click.echo("davit: the engine has no unix socket to stop containers through", err=True)
        return False
    query = "" if timeout_s is None else f"?t={timeout_s}"

    def stop(container: dict[str, str]) -> str:
        try:
            client.post(f"/containers/{container['Id']}/stop{query}", timeout_s=None)
        except DavitError as error:
            return f"{container['Id'][:12]}: {error}"
        return ""

    try:
        running = client.get("/containers/json")
    except DavitError as error:
        click.echo(f"davit: the containers cannot be stopped: {error}", err=True)
        return False
    with ThreadPoolExecutor(max_workers=16) as pool:
        failures = [failure for failure in pool.map(stop, running) if failure]
    for failure in failures:
        click.echo(f"davit: not stopped: {failure}", err=True)
    if running:
        click.echo(f"stopped {len(running) - len(failures)} of {len(running)} containers")
    return not failures


def _end(state: EngineState) -> None:
    """Ask the guardian, else the supervisor; then end what does not go by itself."""
    identities = {name: process.identity for name, process in state.processes.items()}
    known = {name: identity for name, identity in identities.items() if identity is not None}
    for name in ("guardian", "supervisor"):
        if name in known and known[name].send(signal.SIGTERM):
            break
    give_up_at = time.monotonic() + STOP_WITHIN_S
    for name, identity in known.items():
        if not identity.wait(max(0.0, give_up_at - time.monotonic())):
            click.echo(f"davit: {name} (pid {identity.pid}) did not end; killed", err=True)
            _kill(identity)


def _kill(identity: Identity) -> None:
    identity.send(signal.SIGKILL)
    identity.wait(5)
