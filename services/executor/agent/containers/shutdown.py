"""The end of a node's containers together with the engine, without ``live-restore``.

Their exits are theirs as always. A container that its policy would start again is left to the next agent, which does
so as it comes up, as dockerd does.
"""

from __future__ import annotations

import asyncio
import logging

from services.executor.agent.containers.lifecycle import Containers
from services.executor.agent.containers.records import NodeRecord
from shared.docker.signals import parse_signal
from shared.errors import DavitError

log = logging.getLogger(__name__)

DEFAULT_STOP_S = 10


async def end_all(containers: Containers, within_s: float) -> None:
    """Stop every container that runs here, each with its own signal; kill what has not ended in time."""
    containers.closing = True
    running = [record for record in containers.records.all() if containers.runs(record.id)]
    if running:
        log.info("ending %d containers", len(running))
    await asyncio.gather(*(_end(containers, record, within_s) for record in running))


async def _end(containers: Containers, record: NodeRecord, within_s: float) -> None:
    config = record.order.config
    patience = DEFAULT_STOP_S if config.stop_timeout is None else config.stop_timeout
    timeout_s = int(within_s) if patience < 0 else min(patience, int(within_s))
    try:
        await containers.end(record.id, parse_signal(config.stop_signal or "SIGTERM"), timeout_s)
    except DavitError as error:
        log.warning("container %s could not be ended: %s", record.id[:12], error)
