"""Programs in a node, started from this machine; what its engine has written."""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from collections.abc import Iterator
from typing import NoReturn

from lab.lab import Lab
from lab.nodes.kinds import RUN_DIR
from shared.errors import Conflict, InvalidArgument

_POLL_S = 0.1


def become(lab: Lab, node: str, command: list[str]) -> NoReturn:
    """Become a program in a node. Raises Conflict when the node is off, InvalidArgument without the program."""
    entrance = lab.entrance(node)
    entrance.go()
    own = {} if lab.is_image(node) else {"DAVIT_RUN_DIR": RUN_DIR}
    if lab.is_image(node):
        _go_on_as_child()
    try:
        os.execvpe(command[0], command, entrance.environment | own)
    except OSError as error:
        raise InvalidArgument(f"{command[0]}: {error.strerror}") from error


def _go_on_as_child() -> None:
    """A process namespace that was entered is that of children; returns in one, and ends as that one does."""
    pid = os.fork()
    if not pid:
        return
    for number in (signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)  # the terminal sends them to the child as well
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os._exit(code if code >= 0 else 128 - code)


def logs(lab: Lab, node: str, *, follow: bool, tail: int | None) -> Iterator[str]:
    """The engine's log of a node. Raises Conflict when there is none yet."""
    path = lab.places.node(lab.node(node)) / "data" / "engine.log"
    if not path.exists():
        raise Conflict(f"{node} has not logged anything yet")
    with path.open(errors="replace") as file:
        yield from file if tail is None else deque(file, maxlen=tail)
        while follow:
            text = file.read()
            if text:
                yield text
            else:
                time.sleep(_POLL_S)
