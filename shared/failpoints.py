"""Named points at which a test makes a process fail.

``DAVIT_FAILPOINTS="outbox.before_publish=kill;relay.after_publish=kill@3"`` kills the process at its third publish.
Without that variable a point costs one look into an empty dictionary.

Source: FreeBSD fail(9), for the idea and the word.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass

from shared.errors import Internal, InvalidArgument


@dataclass(slots=True)
class _Action:
    """kill (SIGKILL), stop (SIGSTOP), error (raise `Internal`) or sleep; from the given hit on, once."""

    name: str
    seconds: float = 0.0
    hits_left: int = 1

    def run(self, point: str) -> None:
        if self.name == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.name == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif self.name == "error":
            raise Internal(f"failpoint {point}")
        else:
            time.sleep(self.seconds)  # a stalled process, loop and all, is what is asked for


_active: dict[str, _Action] = {}


def configure(text: str) -> None:
    """Set the process's failpoints: ``point=action[@hit];…``; actions kill, stop, error, sleep(<seconds>).

    Raises:
        InvalidArgument: The text cannot be understood.
    """
    _active.clear()
    for item in filter(None, (part.strip() for part in text.split(";"))):
        point, _, action = item.partition("=")
        _active[point] = _parsed(action, item)


def _parsed(action: str, item: str) -> _Action:
    name, _, hit = action.partition("@")
    name, _, argument = name.partition("(")
    try:
        parsed = _Action(name, float(argument.rstrip(")") or 0), int(hit or 1))
    except ValueError as error:
        raise InvalidArgument(f"failpoint {item}: not a number", field="DAVIT_FAILPOINTS") from error
    if name not in ("kill", "stop", "error", "sleep"):
        raise InvalidArgument(f"failpoint {item}: unknown action {name}", field="DAVIT_FAILPOINTS")
    return parsed


def failpoint(name: str) -> None:
    """Fail here, if this point is set."""
    action = _active.get(name)
    if action is None:
        return
    action.hits_left -= 1
    if action.hits_left == 0:
        action.run(name)
