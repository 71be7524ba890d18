"""`davit status`: what runs, where, and how it is."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.config import EngineConfig
from supervisor.state import EngineState, ProcessState

if TYPE_CHECKING:
    from shared.bus.health import Health

EXIT_NOT_RUNNING = 3  # as systemctl and LSB init scripts say it
EXIT_DEGRADED = 1
BUS_TIMEOUT_S = 2.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run-dir", metavar="DIR", help="the engine's run directory (default /run/davit)")
    parser.add_argument("--json", action="store_true", help="machine-readable")


def status(run_dir: Path, *, as_json: bool) -> int:
    """Print the engine's status; 0 when all is well, 1 when something is not, 3 when it is not running."""
    state = EngineState.read(run_dir)
    if state is None or not _alive(state.processes.get("supervisor")):
        if as_json:
            print(json.dumps({"phase": "stopped", "run_dir": str(run_dir), "processes": {}}))
        else:
            print(f"davit is not running in {run_dir}", file=sys.stderr)
        return EXIT_NOT_RUNNING
    result = collect(state)
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        _print(result)
    return 0 if result["healthy"] else EXIT_DEGRADED


def collect(state: EngineState) -> dict[str, Any]:
    """The supervisor's view and each service's own answer, joined."""
    answers, problem = _ask(state)
    result = asdict(state)
    result["bus"] = {"url": state.nats_url, "embedded": state.nats_embedded, "problem": problem}
    by_pid = {health.pid: health for health in answers}
    for name, process in state.processes.items():
        entry: dict[str, Any] = result["processes"][name]
        health = by_pid.pop(process.pid, None)
        entry["healthy"] = _alive(process) and process.state == "ready"
        if health is not None:
            entry["healthy"] = entry["healthy"] and health.healthy
            entry |= {"version": health.version, "published": health.published, "recorded": health.recorded}
            entry["problem"] = health.problem or entry["problem"]
        elif name not in ("guardian", "supervisor", "nats"):
            entry["healthy"] = False
            entry["problem"] = entry["problem"] or "does not answer on the bus"
    result["others"] = [health.model_dump() for health in by_pid.values()]
    result["healthy"] = state.phase == "running" and all(entry["healthy"] for entry in result["processes"].values())
    return result


def _alive(process: ProcessState | None) -> bool:
    return process is not None and process.identity is not None and process.identity.alive


def _ask(state: EngineState) -> tuple[list[Health], str]:
    """What the services answer on the bus; and why not, if not."""
    import asyncio
    import logging

    from shared.bus.client import Bus
    from shared.bus.credentials import credentials
    from shared.bus.health import SERVICES, ask_all
    from shared.errors import DavitError

    config = EngineConfig(data_root=Path(state.data_root), run_dir=Path(state.run_dir), nats_url=state.nats_url)
    expected = sum(1 for name in state.processes if name in SERVICES)

    async def ask() -> list[Health]:
        user, password = credentials(config, "cli")
        bus = await Bus.connect(
            state.nats_url, name="cli", user=user, password=password, connect_timeout_s=BUS_TIMEOUT_S
        )
        try:
            return await ask_all(bus, wait_s=1.5, expected=expected)
        finally:
            await bus.close()

    logging.getLogger("shared.bus.client").setLevel(logging.ERROR)
    try:
        return asyncio.run(ask()), ""
    except DavitError as error:
        return [], str(error)


def _print(result: dict[str, Any]) -> None:
    print(f"davit {result['version']}, {result['phase']}, node {result['node']}")
    print(f"data {result['data_root']}, run {result['run_dir']}, database {result['database']}")
    bus = result["bus"]
    print(
        f"bus {bus['url']}{' (embedded)' if bus['embedded'] else ''}{': ' + bus['problem'] if bus['problem'] else ''}"
    )
    print(f"API {' '.join(result['hosts'])}")
    print(f"\n{'PROCESS':<12}{'PID':>8}  {'STATE':<10}{'HEALTH':<9}{'UP':>8}{'RESTARTS':>10}  PROBLEM")
    for name, entry in result["processes"].items():
        health = "ok" if entry["healthy"] else "bad"
        age = _age(entry["since"]) if entry["pid"] else "-"
        print(
            f"{name:<12}{entry['pid'] or '-':>8}  {entry['state']:<10}{health:<9}{age:>8}{entry['restarts']:>10}"
            f"  {entry['problem']}"
        )


def _age(since: float) -> str:
    seconds = max(0, int(time.time() - since))
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"
