"""`docker wait`: a bounded wait that a client continues with a ticket."""

from __future__ import annotations

from services.executor.control.domain import Record
from services.executor.control.state import sql
from services.executor.control.state.records import Records
from shared.contracts.containers import WaitContainer, WaitResult
from shared.errors import InvalidArgument, NotFound


class Waits:
    """Tickets are ``<id>:<exits seen when the wait began>``, so that any copy of control can go on with a wait."""

    def __init__(self, records: Records) -> None:
        self._records = records

    async def wait(self, request: WaitContainer) -> WaitResult:
        """The outcome, or `pending` after the request's patience.

        An exit after which the container restarts counts, as with Docker: whoever waits learns of the first one.
        """
        found: Record | None = None
        if request.ticket:
            container_id, baseline = _parsed(request.ticket)
        else:
            found = await self._records.find(request.ref)
            container_id, baseline = found.id, found.exits
        condition = request.condition

        def done(record: Record | None) -> bool:
            if record is None or condition == "removed":
                return record is None
            return record.exits > baseline or (condition == "not-running" and not record.alive)

        if found is None or not (done(found) or request.patience_s <= 0):
            found = await self._records.until(container_id, done, request.patience_s)
        if not done(found):
            return WaitResult(pending=True, ticket=f"{container_id}:{baseline}")
        if found is None:
            return await self._of_removed(container_id)
        state = found.container.state
        return WaitResult(status_code=state.exit_code, error=state.error)

    async def _of_removed(self, container_id: str) -> WaitResult:
        async with self._records.database.read() as reader:
            code = await sql.tombstone(reader, container_id)
        if code is None:
            raise NotFound(f"No such container: {container_id}")
        return WaitResult(status_code=code)


def _parsed(ticket: str) -> tuple[str, int]:
    container_id, _, text = ticket.partition(":")
    if not text.isdecimal():
        raise InvalidArgument(f"invalid ticket: {ticket}", field="ticket")
    return container_id, int(text)
