"""Reads the stream of audit records as the user for that, and tries what it must not; prints what came of it."""

from __future__ import annotations

import asyncio
import json
import sys

import nats
import nats.errors
from nats.js.api import ConsumerConfig, DeliverPolicy


async def main(url: str, password: str) -> None:
    problems: list[str] = []

    async def failed(error: Exception) -> None:
        problems.append(str(error))

    client = await nats.connect(url, user="auditor", password=password, inbox_prefix=b"_INBOX_auditor", error_cb=failed)
    stream = client.jetstream()
    config = ConsumerConfig(deliver_policy=DeliverPolicy.ALL)
    subscription = await stream.pull_subscribe("davit.auditlog.>", durable="siem", stream="AUDIT", config=config)
    numbers = []
    while True:
        try:
            for message in await subscription.fetch(100, timeout=2):
                numbers.append(json.loads(message.data)["number"])
                await message.ack()
        except (nats.errors.TimeoutError, TimeoutError):
            break
    await client.publish("davit.control.container.remove", b"{}")
    await client.publish("davit.auditlog.record", b"{}")
    await client.flush()
    await asyncio.sleep(0.2)
    sys.stdout.write(json.dumps({"numbers": numbers, "refused": len(problems) >= 2}))
    await client.close()


asyncio.run(main(*sys.argv[1:]))
