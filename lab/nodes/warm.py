"""Starts engines as forks of the command itself, which has imported what they need, once for all nodes.

An interpreter of its own for each engine would spend a second of processor time on imports, and share no memory with
the others. What is started is the same; what ends later is started again as always.
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import NoReturn

from lab.nodes.join import EngineStart
from shared.cluster.membership import ClusterDirectory
from shared.config import EngineConfig
from shared.errors import DavitError
from supervisor.start import StartRefused, as_member, chosen_services, prepare, start_detached


def warm_up(starts: list[EngineStart]) -> None:
    """Import what the engines of these nodes run."""
    from supervisor import warm

    for database in dict.fromkeys(start.database for start in starts):
        services = [name for start in starts if start.database == database for name in chosen_services(start.services)]
        warm.warm_up(EngineConfig(database_url=database), list(dict.fromkeys(services)))


def become_engine(start: EngineStart, data: Path, run: Path, file: Path, environment: dict[str, str]) -> NoReturn:
    """Start the engine, say how that went, and end. As `davit up --detach` does."""
    os.environ.clear()
    os.environ.update(environment)
    code = 1
    try:
        flags = {"data_root": data, "run_dir": run, "node": start.node}
        flags |= {name: value for name, value in (("nats_url", start.bus), ("database_url", start.database)) if value}
        config = EngineConfig.load(file=file, flags=flags)
        services = chosen_services(start.services)
        membership = ClusterDirectory(config.data_root).membership()
        if membership is not None and membership.role == "worker":
            config, services, flags = as_member(membership, config, start.services, flags)
        prepare(config, services, flags, file)
        print(f"davit is ready: {start_detached(config, services, warm=True)}")  # noqa: T201  # to start.log
        code = 0
    except (DavitError, StartRefused) as error:
        print(f"davit: {error}", file=sys.stderr)  # noqa: T201
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
