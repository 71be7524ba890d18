"""Messages between the parent (shim or command line) and the child that becomes the container.

    parent                                  child (init)
      | clone ------------------------------> |
      |   <-------------------------- stage   |   only with a user, time or joined pid namespace: the id of the real
      child
      | go ---------------------------------> |
      |   <-------------------------- map     |   only with a new user namespace: asks for its id maps
      | mapped -----------------------------> |
      |   <-------------------------- network |   only with devices to move: comes with the namespace they are to go to
      | moved ------------------------------> |   with the addresses that they had
      |   <-------------------------- hooks   |   only with hooks of the runtime namespace
      | hooked -----------------------------> |
      |   <-------------------------- seccomp |   only with a notify listener; the parent fetches its descriptor
      | fetched ----------------------------> |
      |   <-------------------------- ready   |   with the terminal's master end, when there is one
      | start ------------------------------> |   unless it was told beforehand not to wait
      |   <-------------------------- (end)   |   execve closed the channel: it worked
      |   <-------------------------- refused |   the program could not be executed; one byte, see `steps/execstub.py`
      |   <-------------------------- error   |   at any time: the failure as data, then the end

Each message is one packet of JSON, so that it arrives whole or not at all.
"""

from __future__ import annotations

import _socket
import os

from services.executor.runtime import jsonlite
from services.executor.runtime.errors import Interrupted, RuntimeFailure, from_wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_LARGEST = 1 << 16
_MOST_FDS = 8


class Channel:
    """One end of the conversation."""

    __slots__ = ("socket",)

    def __init__(self, socket: _socket.socket) -> None:
        self.socket = socket

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        """Two connected ends, closed by execve."""
        ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
        return cls(ours), cls(theirs)

    def fileno(self) -> int:
        """The descriptor of this end."""
        return self.socket.fileno()

    def close(self) -> None:
        """Close this end."""
        self.socket.close()

    def send(self, kind: str, fds: tuple[int, ...] = (), **fields: Any) -> None:
        """Send one message. A peer that is gone is not an error here: its end is found when reading."""
        data = jsonlite.dumps({"kind": kind, **fields}).encode()
        ancillary = []
        if fds:
            packed = b"".join(fd.to_bytes(4, "little") for fd in fds)
            ancillary = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, packed)]
        try:
            if fds:
                self.socket.sendmsg([data], ancillary)
            else:
                os.write(self.socket.fileno(), data)
        except BrokenPipeError:
            return

    def receive(self) -> tuple[dict[str, Any], list[int]] | None:
        """The next message and the descriptors that came with it, or None when the peer is gone."""
        data, ancillary, _flags, _address = self.socket.recvmsg(
            _LARGEST, _socket.CMSG_SPACE(4 * _MOST_FDS), _socket.MSG_CMSG_CLOEXEC
        )
        if not data:
            return None
        if len(data) == 1:
            return {"kind": "refused", "errno": data[0]}, []
        return jsonlite.loads(data), received_fds(ancillary)

    def expect(self, kind: str) -> tuple[dict[str, Any], list[int]]:
        """The next message, which must be of this kind.

        Raises:
            RuntimeFailure: the one that the peer reports; `Interrupted` when it is gone.
        """
        got = self.receive()
        if got is None:
            raise Interrupted("the process ended before it answered", step=kind)
        message, fds = got
        if message["kind"] == "error":
            raise from_wire(message["error"])
        if message["kind"] != kind:
            raise RuntimeFailure(f'unexpected message "{message["kind"]}"', step=kind)
        return message, fds


def received_fds(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    """The descriptors in what recvmsg(2) returned."""
    fds: list[int] = []
    for level, kind, data in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            fds += [int.from_bytes(data[i : i + 4], "little") for i in range(0, len(data) - 3, 4)]
    return fds
