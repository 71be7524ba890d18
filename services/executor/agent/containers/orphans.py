"""Ending the containers of a node whose agent does not run: by their shims, which are there without it.

The shims write how the processes ended; the next agent reads and reports it.
"""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

from services.executor.agent.containers.records import NodeRecord, NodeRecords
from services.executor.agent.shims.client import ShimClient, ShimGone
from shared.docker.signals import parse_signal
from shared.errors import DavitError

DEFAULT_TIMEOUT_S = 10
KILLED_WITHIN_S = 10.0
LIVING = ("starting", "running", "paused", "restarting")


async def end_all(data_root: Path, run_dir: Path, timeout_s: int | None) -> tuple[int, list[str]]:
    """Stop every container that runs, as `docker stop` does, each with its own signal.

    Args:
        timeout_s: Until they are killed; None is each container's own.

    Returns:
        How many have ended, and what hindered the others, a sentence each.
    """
    records = NodeRecords(data_root, run_dir)
    records.load()
    living = [record for record in records.all() if record.status in LIVING]
    found = await asyncio.gather(*(_end(records, record, timeout_s) for record in living))
    failures = [text for text in found if text]
    return len(living) - len(failures), failures


async def _end(records: NodeRecords, record: NodeRecord, timeout_s: int | None) -> str:
    try:
        shim = await ShimClient.connect(records.paths(record.id).socket)
    except (ShimGone, OSError):
        return ""  # it has ended, or waits to be started again, which nobody does any more
    config = record.order.config
    patience_s = timeout_s if timeout_s is not None else (config.stop_timeout or DEFAULT_TIMEOUT_S)
    try:
        ended = asyncio.ensure_future(shim.wait())
        await shim.signal(parse_signal(config.stop_signal or "SIGTERM"))
        await asyncio.wait({ended}, timeout=patience_s)
        if not ended.done():
            await shim.signal(signal.SIGKILL, everyone=True)
        await asyncio.wait_for(ended, KILLED_WITHIN_S)
    except ShimGone:
        return ""
    except (DavitError, TimeoutError, OSError) as error:
        return f"{record.order.name}: {error or 'it does not end'}"
    finally:
        await shim.close()
    return ""
