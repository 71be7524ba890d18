"""Named points at which a test makes a process fail.

``DAVIT_FAILPOINTS="outbox.before_publish=kill;relay.after_publish=kill@3"`` kills the process at its third publish.
Each process counts for itself, also the one that replaces a killed one; ``kill_once(/some/file)`` kills one of them.
Without that variable a point costs one look into an empty dictionary.

``control.start.before_commit=hold(/dir)`` stops one task at a point, while its process goes on: as long as the file
``/dir/control.start.before_commit`` is there; ``/dir/control.start.before_commit.reached`` gets a byte from each that
waits. A test so meets a transition in flight, as often as it likes.

Source: FreeBSD fail(9), for the idea and the word.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import dataclass

from shared.errors import Internal, InvalidArgument

HOLD_LOOK_S = 0.005


@dataclass(slots=True)
class _Action:
    """kill (SIGKILL), stop (SIGSTOP), error (raise `Internal`) or sleep; from the given hit on, once. hold: each time.

    Attributes:
        argument: Seconds to sleep; for kill_once, the file that tells the next process that it has happened; for hold,
            the directory of its files.
    """

    name: str
    argument: str = ""
    hits_left: int = 1

    def run(self, point: str) -> None:
        if self.name == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.name == "kill_once":
            try:
                os.close(os.open(self.argument, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.name == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif self.name == "error":
            raise Internal(f"failpoint {point}")
        else:
            time.sleep(float(self.argument))  # a stalled process, loop and all, is what is asked for


_active: dict[str, _Action] = {}


def configure(text: str) -> None:
    """Set the process's failpoints: ``point=action[@hit];…``.

    Actions: kill, kill_once(<file>), stop, error, sleep(<seconds>); and hold(<directory>) where a task may wait.

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
        parsed = _Action(name, argument.rstrip(")"), int(hit or 1))
        if name == "sleep":
            float(parsed.argument)
    except ValueError as error:
        raise InvalidArgument(f"failpoint {item}: not a number", field="DAVIT_FAILPOINTS") from error
    if name not in ("kill", "kill_once", "stop", "error", "sleep", "hold"):
        raise InvalidArgument(f"failpoint {item}: unknown action {name}", field="DAVIT_FAILPOINTS")
    return parsed


def failpoint(name: str) -> None:
    """Fail here, if this point is set."""
    action = _active.get(name)
    if action is None or action.name == "hold":
        return
    action.hits_left -= 1
    if action.hits_left == 0:
        action.run(name)


async def holdpoint(name: str) -> None:
    """As `failpoint`, in a task; with the action hold the task waits here, and the process goes on."""
    failpoint(name)
    action = _active.get(name)
    if action is None or action.name != "hold":
        return
    held = os.path.join(action.argument, name)
    if os.path.exists(held):
        with open(held + ".reached", "ab") as reached:
            reached.write(b"*")
    while os.path.exists(held):  # noqa: ASYNC110  (what is waited for is another process's)
        await asyncio.sleep(HOLD_LOOK_S)
