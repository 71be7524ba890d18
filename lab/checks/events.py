"""The event log has no gaps, and the containers that it tells of are those that the records have.

``python -m lab.checks.events URL`` reads the log where the bus can be reached, in a manager's node, and prints it as
JSON: for each service the numbers, and the ids of containers that were created and not removed.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from collections.abc import Iterator
from typing import Any

from lab.checks.view import View
from shared.events.record import SUBJECTS, DomainEvent

_QUIET_S = 1.0


def check(view: View) -> Iterator[str]:
    """Gaps and doubles in each service's numbers; containers that are lost, or were never told of."""
    if not view.managers:
        return
    manager = view.managers[0]
    command = [sys.executable, "-P", "-m", "lab.checks.events", view.lab.cluster.bus_url(manager)]
    log: dict[str, Any] = json.loads(view.lab.run_in(manager, command))
    for service, numbers in log["numbers"].items():
        for before, after in itertools.pairwise(numbers):
            if after != before + 1:
                yield f"{service}: event {after} follows on {before}"
    known = {container.id for container in view.containers}
    told = set(log["alive"])
    for lost in sorted(told - known):
        yield f"container {lost[:12]} was created and never removed, and no record has it"
    if log["whole"]:
        for silent in sorted(known - told):
            yield f"container {silent[:12]} is on record, and no event tells of its creation"


async def read(url: str) -> dict[str, Any]:
    """The whole log of the bus at an address."""
    import nats
    from nats.errors import TimeoutError as NothingMore

    connection = await nats.connect(url)
    numbers: dict[str, list[int]] = {}
    alive: dict[str, None] = {}
    try:
        subscription = await connection.jetstream().subscribe(SUBJECTS, ordered_consumer=True)
        while True:
            try:
                message = await subscription.next_msg(timeout=_QUIET_S)
            except NothingMore:
                break
            event = DomainEvent.model_validate_json(message.data)
            numbers.setdefault(event.service, []).append(event.sequence)
            if event.type == "container" and event.action == "create":
                alive[event.actor_id] = None
            elif event.type == "container" and event.action == "destroy":
                alive.pop(event.actor_id, None)
    finally:
        await connection.close()
    whole = all(found[0] == 1 for found in numbers.values())
    return {"numbers": numbers, "alive": list(alive), "whole": whole}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(read(sys.argv[1]))))  # noqa: T201  # what the check reads
