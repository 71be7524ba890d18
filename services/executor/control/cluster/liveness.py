"""Which nodes live. Signs of life come twice a second over the bus.

The rule, so that a slow node is not taken for a dead one:

- A node that was heard of within `ASK_AFTER_S` is ready.
- One that is silent for longer is asked (`PING`). The bus itself knows when nobody listens for a node any more (its
  agent was killed, its connection ended): then it is down at once, unless it is back before `GONE_AFTER_S`, since a
  killed agent is started again within a fraction of a second.
- One that neither beats nor answers (stopped, or cut off) is down after `DOWN_AFTER_S`. Whatever it says later, be it
  the answer to a question asked earlier, makes it ready again.

Every copy of control counts for itself, from when it began to listen; only the holder of a lease writes changes down
and tells them as events.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from pydantic import ValidationError

from shared.bus.client import EMPTY, Bus
from shared.clock import Clock
from shared.contracts import cluster as contract
from shared.contracts.cluster import Heartbeat, NodeState
from shared.errors import DavitError, Unavailable

log = logging.getLogger(__name__)

ASK_AFTER_S = 1.0
GONE_AFTER_S = 1.4
DOWN_AFTER_S = 1.8
LOOK_EVERY_S = 0.2
SECOND_NS = 1_000_000_000


@dataclass(slots=True)
class Sign:
    """The last that was heard of a node. since: on the monotonic clock."""

    beat: Heartbeat
    since: float
    heard_ns: int
    gone: bool = False
    asking: asyncio.Task[None] | None = field(default=None, repr=False)


class Liveness:
    """What is known of nodes that give signs of life.

    Attributes:
        leader: The node on which the copy runs that does what only one does.
        on_change: Called with a node's name when it came or went, in the copy that noticed.
    """

    def __init__(self, bus: Bus, clock: Clock) -> None:
        self._bus = bus
        self._clock = clock
        self._signs: dict[str, Sign] = {}
        self._known: dict[str, NodeState] = {}
        self.leader = ""
        self.on_change: list[Callable[[str, NodeState], Awaitable[None]]] = []

    async def start(self) -> None:
        await self._bus.listen_to_nodes(contract.HEARTBEATS, self._heard)

    async def _heard(self, node: str, data: bytes) -> None:
        try:
            beat = Heartbeat.model_validate_json(data)
        except ValidationError as error:
            log.warning("a sign of life that cannot be read: %s", error)
            return
        self.heard(beat.model_copy(update={"node": node}))

    def heard(self, beat: Heartbeat) -> None:
        """A node lives."""
        sign = self._signs.get(beat.node)
        if sign is None:
            self._signs[beat.node] = Sign(beat, self._clock.monotonic(), self._clock.time_ns())
            return
        sign.beat, sign.since, sign.heard_ns, sign.gone = beat, self._clock.monotonic(), self._clock.time_ns(), False

    def last(self, node: str) -> Sign | None:
        return self._signs.get(node)

    def state(self, node: str, seen_ns: int = 0) -> NodeState:
        """What a node is, now.

        Args:
            seen_ns: When it last reported in full, for one of which no sign of life was heard here.
        """
        sign = self._signs.get(node)
        if sign is None:
            if not seen_ns:
                return "unknown"
            return "ready" if self._clock.time_ns() - seen_ns < DOWN_AFTER_S * SECOND_NS else "down"
        silent_s = self._clock.monotonic() - sign.since
        if silent_s > DOWN_AFTER_S or (sign.gone and silent_s > GONE_AFTER_S):
            return "down"
        return "ready"

    def beats(self, node: str) -> bool:
        """Whether signs of life are what to judge this node by."""
        return node in self._signs

    def reason(self, node: str) -> str:
        """Why a node is not ready, for who reads lists."""
        sign = self._signs.get(node)
        if sign is None:
            return "it has not reported yet"
        if sign.gone:
            return "its agent is not connected to the bus"
        return f"heartbeat failure: silent for {self._clock.monotonic() - sign.since:.0f} s"

    async def watch_for_ever(self) -> None:
        """Ask the silent, and tell who came and who went."""
        slept_from = self._clock.monotonic()
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            now = self._clock.monotonic()
            if now - slept_from > LOOK_EVERY_S + ASK_AFTER_S / 2:
                self._forgive(now - slept_from)
            slept_from = now
            for node, sign in list(self._signs.items()):
                if now - sign.since > ASK_AFTER_S and sign.asking is None:
                    sign.asking = asyncio.create_task(self._ask(node, sign))
                await self._notice(node)

    def _forgive(self, pause_s: float) -> None:
        """This process itself was stopped or busy; what nodes sent meanwhile is yet to be read."""
        for sign in self._signs.values():
            sign.since = max(sign.since, self._clock.monotonic() - ASK_AFTER_S)
        log.info("signs of life were not read for %.1f s", pause_s)

    async def _ask(self, node: str, sign: Sign) -> None:
        try:
            await self._bus.request(contract.PING, EMPTY, node=node)
            self.heard(sign.beat)
        except Unavailable:
            sign.gone = True  # nobody listens for it
        except DavitError as error:
            log.debug("node %s does not answer: %s", node, error)
        finally:
            sign.asking = None

    async def _notice(self, node: str) -> None:
        state = self.state(node)
        if self._known.get(node) == state:
            return
        self._known[node] = state
        for told in self.on_change:
            await told(node, state)

    def forget(self, node: str) -> None:
        """It is no member any more."""
        self._signs.pop(node, None)
        self._known.pop(node, None)
