"""A process that commits events, and publishes them until all are out; killed by failpoints."""

from __future__ import annotations

import asyncio
import sys

from shared import failpoints
from shared.bus.client import Bus
from shared.events.relay import Relay
from shared.state.database import Database
from tests.integration.shared.conftest import HISTORY
from tests.integration.shared.test_database import add


async def main(database_url: str, nats_url: str, count: int) -> None:
    database = await Database.open(database_url, service="demo", migrations=HISTORY)
    for n in range(1, count + 1):
        await add(database, str(n))
    bus = await Bus.connect(nats_url, name="publisher")
    relay = Relay(database, bus, retention_s=3600)
    task = asyncio.create_task(relay.run())
    last = await database.recorded_events()
    while relay.position < last:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await bus.close()
    await database.close()


if __name__ == "__main__":
    failpoints.configure(sys.argv[4])
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
