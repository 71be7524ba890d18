"""Programs in a node, started from this machine; what its engine has written."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator
from typing import NoReturn

from lab.lab import RUN_DIR, Lab
from lab.nodes.start import enter, environment_of
from shared.errors import Conflict, InvalidArgument

_POLL_S = 0.1


def become(lab: Lab, node: str, command: list[str]) -> NoReturn:
    """Become a program in a node. Raises Conflict when the node is off, InvalidArgument without the program."""
    require_running(lab, node)
    enter(lab.namespaces, lab.cgroup(node), node)
    environment = environment_of(f"unix://{RUN_DIR}/docker.sock") | {"DAVIT_RUN_DIR": RUN_DIR}
    try:
        os.execvpe(command[0], command, environment)
    except OSError as error:
        raise InvalidArgument(f"{command[0]}: {error.strerror}") from error


def require_running(lab: Lab, node: str) -> None:
    """Raises Conflict when the node is not on, NotFound when there is none."""
    if lab.node(node) not in lab.running():
        raise Conflict(f"{node} is off: davit lab restart {node}")


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
