"""`davit down`: end the engine; containers go on, unless ``--containers``."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path

from cli.client import EngineClient
from shared.errors import DavitError
from supervisor.process import Identity
from supervisor.state import EngineState, remove_state

STOP_WITHIN_S = 40.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run-dir", metavar="DIR", help="the engine's run directory (default /run/davit)")
    parser.add_argument("--containers", action="store_true", help="stop all containers first")
    parser.add_argument("-t", "--timeout", type=int, default=None, metavar="SECONDS", help="for each container")


def down(run_dir: Path, *, containers: bool, timeout_s: int | None) -> int:
    """Stop the engine of a run directory; 0 also when there was none."""
    state = EngineState.read(run_dir)
    if state is None:
        print(f"davit is not running in {run_dir}", file=sys.stderr)
        return 0
    if containers and not _stop_containers(state, timeout_s):
        return 1
    _end(state)
    remove_state(run_dir)
    return 0


def _stop_containers(state: EngineState, timeout_s: int | None) -> bool:
    from concurrent.futures import ThreadPoolExecutor

    path = next((host.removeprefix("unix://") for host in state.hosts if host.startswith("unix://")), None)
    if path is None:
        print("davit: the engine has no unix socket to stop containers through", file=sys.stderr)
        return False
    client = EngineClient(path)
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
        print(f"davit: the containers cannot be stopped: {error}", file=sys.stderr)
        return False
    with ThreadPoolExecutor(max_workers=16) as pool:
        failures = [failure for failure in pool.map(stop, running) if failure]
    for failure in failures:
        print(f"davit: not stopped: {failure}", file=sys.stderr)
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
            print(f"davit: {name} (pid {identity.pid}) did not end; killed", file=sys.stderr)
            _kill(identity)


def _kill(identity: Identity) -> None:
    identity.send(signal.SIGKILL)
    identity.wait(5)
