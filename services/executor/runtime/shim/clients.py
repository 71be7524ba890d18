"""What clients of a shim say and are answered: requests in frames, or raw bytes of an attached one.

    {"op": …, "id": n, …}  ->  {"id": n, "ok": …} or {"id": n, "error": …}

A request has a function of its name here; one that answers None has answered itself, or will. Whatever a client sends,
the shim lives on: what has no meaning is answered with an error, or the connection is closed.
"""

from __future__ import annotations

import os
import select
import time

from services.executor.runtime.errors import InvalidSpec, NotFound, RuntimeFailure, WrongState, unforeseen
from services.executor.runtime.shim.streams import READ_BYTES, Client

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from services.executor.runtime.shim.shim import Shim

LAST_SIGNAL = 64


def receive(shim: Shim, client: Client, events: int) -> None:
    try:
        data = client.socket.recv(READ_BYTES)
    except BlockingIOError:
        return
    except OSError:
        data = b""
        client.closing = True
    if not data:
        if client.wants is None or events & select.EPOLLHUP:
            client.closing = True
            client.pending.clear()
        shim.input_left(client)
        client.stdin_ended = True
        return
    if client.wants is not None:
        _type(shim, client, data)
        return
    client.unpacker.feed(data)
    try:
        while client.wants is None and (message := client.unpacker.next()) is not None:
            _answer(shim, client, message)
    except (RuntimeFailure, ValueError, RecursionError):  # no frames: there is nobody to answer
        client.closing = True
        return
    if client.wants is not None and client.unpacker.rest:
        rest, client.unpacker.rest = client.unpacker.rest, b""
        _type(shim, client, rest)


def _type(shim: Shim, client: Client, data: bytes) -> None:
    if shim.input is not None and client.wants and "stdin" in client.wants:
        shim.input.write(data)


def _answer(shim: Shim, client: Client, message: dict[str, Any]) -> None:
    number = message.get("id", 0)
    if not isinstance(number, int):
        raise InvalidSpec("id", "must be an integer")
    try:
        operation = _OPERATIONS.get(str(message.get("op", "")))
        if operation is None:
            raise RuntimeFailure(f'unknown operation "{message.get("op")}"')
        answer = operation(shim, client, message)
    except RuntimeFailure as failure:
        client.send({"id": number, "error": failure.to_wire()})
    except OSError as error:
        client.send({"id": number, "error": RuntimeFailure(str(error), errno=error.errno).to_wire()})
    except Exception as error:  # the edge: a request that nobody foresaw must not take the container along
        client.send({"id": number, "error": unforeseen(error).to_wire()})
    else:
        if answer is not None:
            client.send({"id": number, "ok": answer})


def _integer(message: dict[str, Any], name: str, lowest: int, highest: int) -> int:
    value = message.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
        raise InvalidSpec(name, f"must be a number from {lowest} to {highest}")
    return value


def _state(shim: Shim, _client: Client, _message: dict[str, Any]) -> dict[str, Any]:
    """What `state` answers."""
    return shim.state()


def _start(shim: Shim, _client: Client, _message: dict[str, Any]) -> dict[str, Any]:
    """Let a created process execve.

    Raises:
        WrongState: it was started before.
        RuntimeFailure: execve failed; the exit record follows.
    """
    if shim.started_at_ns or shim.status is not None:
        raise WrongState("the process has been started already")
    process = shim.launched.process
    assert process is not None
    process.start()
    process.until_running()
    shim.started_at_ns = time.time_ns()
    return shim.state()


def _signal(shim: Shim, _client: Client, message: dict[str, Any]) -> dict[str, Any]:
    """Send a signal to the process, or with `all` to everything in its cgroup.

    Raises:
        NotFound: it has ended.
        InvalidSpec: there is no such signal.
    """
    if shim.status is not None:
        raise NotFound("process already finished")
    number = _integer(message, "number", 0, LAST_SIGNAL)
    if message.get("all") and shim.launched.cgroup is not None:
        shim.launched.cgroup.kill(number)
    else:
        # not yet reaped, so the id is still its own
        os.kill(shim.launched.pid, number)
    return {}


def _resize(shim: Shim, _client: Client, message: dict[str, Any]) -> dict[str, Any]:
    """Set the terminal's size.

    Raises:
        WrongState: there is no terminal.
        InvalidSpec: a size that no terminal can have.
    """
    from services.executor.runtime.steps import tty

    if shim.input is None or not shim.input.tty or shim.input.fd < 0:
        raise WrongState("the process has no terminal")
    rows, columns = (_integer(message, name, 0, tty.LARGEST) for name in ("rows", "cols"))
    tty.set_size(shim.input.fd, rows, columns)
    return {}


def _wait(shim: Shim, client: Client, message: dict[str, Any]) -> dict[str, Any] | None:
    """Answer when the process has ended."""
    if shim.record is not None:
        return shim.record.to_dict()
    client.waiting.append(message.get("id", 0))
    return None


def _take_over(shim: Shim, client: Client, message: dict[str, Any]) -> None:
    """Turn the connection over to raw bytes."""
    client.send({"id": message.get("id", 0), "ok": {"tty": bool(shim.order.get("tty"))}})
    attach(shim, client, message)


def attach(shim: Shim, client: Client, wish: dict[str, Any]) -> None:
    client.wants = frozenset(name for name in ("stdin", "stdout", "stderr") if wish.get(name))
    if shim.record is not None:
        client.closing = True


def _close_stdin(shim: Shim, _client: Client, _message: dict[str, Any]) -> dict[str, Any]:
    """End the process's input."""
    if shim.input is not None:
        shim.input.end()
    return {}


_OPERATIONS = {
    "state": _state,
    "start": _start,
    "signal": _signal,
    "resize": _resize,
    "wait": _wait,
    "attach": _take_over,
    "close_stdin": _close_stdin,
}
