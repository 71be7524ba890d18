"""`davit status`: what runs, where, how it is, and what it takes."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.common import exits
from cli.common.engine import Engine, engine_options
from cli.common.output import listing_options, show, table
from cli.common.values import size
from supervisor.state import EngineState, ProcessState

if TYPE_CHECKING:
    from shared.bus.health import Health

BUS_TIMEOUT_S = 2.0
ANSWERS_WITHIN_S = 1.5
_COLUMNS = ("PROCESS", "PID", "STATE", "HEALTH", "MEMORY", "UP", "RESTARTS", "PROBLEM")


@click.command()
@engine_options
@listing_options
def command(engine: Engine, *, as_json: bool, form: str | None) -> int:
    """Show processes, health, bus and database.

    MEMORY is each process's share of what it has in memory (PSS): the column adds up. Ends with 0 when all is well, 1
    when something is not, 3 when the engine does not run. --format goes through the processes.

    \b
    Examples:
      davit status
      davit status --json
      davit status --format '{{.Name}} {{.Pid}} {{.Memory}}'
    """
    run_dir = engine.run_dir
    state = EngineState.read(run_dir)
    if state is None or not _alive(state.processes.get("supervisor")):
        if as_json:
            click.echo(json.dumps({"phase": "stopped", "run_dir": str(run_dir), "processes": {}}))
        else:
            click.echo(f"davit is not running in {run_dir}", err=True)
        return exits.NOT_RUNNING
    result = collect(state)
    if as_json:
        click.echo(json.dumps(result, indent=2))
    elif form:
        show([_row(name, entry) for name, entry in result["processes"].items()], {}, form=form)
    else:
        _print(result)
    return exits.OK if result["healthy"] else exits.FAILURE


def collect(state: EngineState) -> dict[str, Any]:
    """The supervisor's view and each service's own answer, joined."""
    answers, problem = ([], "") if state.nats_url.startswith("tls://") else _ask(state)
    result = asdict(state)
    result["bus"] = {"url": state.nats_url, "embedded": state.nats_embedded, "problem": problem}
    # A node of a cluster may not ask around on its managers' bus; what its own processes say of themselves must do.
    remote = state.nats_url.startswith("tls://")
    # Other nodes' processes may have the same numbers.
    here = {health.pid: health for health in answers if health.node == state.node}
    others = [health for health in answers if health.node != state.node]
    for name, process in state.processes.items():
        entry: dict[str, Any] = result["processes"][name]
        health = here.pop(process.pid, None)
        entry["memory_bytes"] = _memory(process)
        entry["healthy"] = _alive(process) and process.state == "ready"
        if health is not None:
            entry["healthy"] = entry["healthy"] and health.healthy
            entry |= {"version": health.version, "published": health.published, "recorded": health.recorded}
            entry["problem"] = health.problem or entry["problem"]
        elif name not in ("guardian", "supervisor", "nats", "gate") and not remote:
            entry["healthy"] = False
            entry["problem"] = entry["problem"] or "does not answer on the bus"
    result["others"] = [health.model_dump() for health in (*here.values(), *others)]
    result["memory_bytes"] = sum(entry["memory_bytes"] or 0 for entry in result["processes"].values())
    result["healthy"] = state.phase == "running" and all(entry["healthy"] for entry in result["processes"].values())
    return result


def _alive(process: ProcessState | None) -> bool:
    return process is not None and process.identity is not None and process.identity.alive


def _memory(process: ProcessState) -> int | None:
    """The process's share of memory, in bytes; None when it is gone, or only root may know."""
    import psutil

    if not _alive(process):
        return None
    try:
        return int(psutil.Process(process.pid).memory_full_info().pss)
    except psutil.Error:
        return None


def _ask(state: EngineState) -> tuple[list[Health], str]:
    """What the services answer on the bus; and why not, if not."""
    import asyncio
    import logging

    from shared.bus.client import Bus
    from shared.bus.credentials import credentials
    from shared.bus.health import SERVICES, ask_all
    from shared.config import EngineConfig
    from shared.errors import DavitError

    config = EngineConfig(data_root=Path(state.data_root), run_dir=Path(state.run_dir), nats_url=state.nats_url)
    expected = {(state.node, process.pid) for name, process in state.processes.items() if name in SERVICES}

    async def ask() -> list[Health]:
        user, password = credentials(config, "cli")
        bus = await Bus.connect(
            state.nats_url, name="cli", user=user, password=password, connect_timeout_s=BUS_TIMEOUT_S
        )
        try:
            return await ask_all(bus, wait_s=ANSWERS_WITHIN_S, expected=expected)
        finally:
            await bus.close()

    logging.getLogger("shared.bus.client").setLevel(logging.ERROR)
    try:
        return asyncio.run(ask()), ""
    except DavitError as error:
        return [], str(error)


def _row(name: str, entry: dict[str, Any]) -> dict[str, Any]:
    return {
        "Name": name,
        "Pid": entry["pid"] or "-",
        "State": entry["state"],
        "Health": "ok" if entry["healthy"] else "bad",
        "Memory": "-" if entry["memory_bytes"] is None else size(entry["memory_bytes"]),
        "Up": _age(entry["since"]) if entry["pid"] else "-",
        "Restarts": entry["restarts"],
        "Problem": entry["problem"],
    }


def _print(result: dict[str, Any]) -> None:
    bus = result["bus"]
    click.echo(f"davit {result['version']}, {result['phase']}, node {result['node']}")
    click.echo(f"data {result['data_root']}, run {result['run_dir']}, database {result['database']}")
    embedded, problem = " (embedded)" if bus["embedded"] else "", f": {bus['problem']}" if bus["problem"] else ""
    click.echo(f"bus {bus['url']}{embedded}{problem}")
    click.echo(f"API {' '.join(result['hosts'])}")
    click.echo(f"memory {size(result['memory_bytes'])}\n")
    rows = [_row(name, entry) for name, entry in result["processes"].items()]
    table(_COLUMNS, [[str(value) for value in row.values()] for row in rows])


def _age(since: float) -> str:
    seconds = max(0, int(time.time() - since))
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"
