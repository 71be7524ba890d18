"""The relay: a process that takes frames of some directions from one port and sends them, later or changed, by another.

For kernels without netem, and for what netem cannot tell apart: on a segment, frames from one node to one other. It
listens on the lab's end of the sender's wire (the bridge drops what the relay has taken over) and sends through the
lab's end of the receiver's, below its queueing discipline.

::

    relay.py FILE SOCKET      FILE: the flows, JSON; a connection to SOCKET has it read again, and answers "ok"
    a parent that only waits ── fork ─► the relay; it is started again when it dies

Run as a script, with the standard library only, inside the lab's network namespace: it costs little memory.

Source: packet(7) (PACKET_VNET_HDR), linux/virtio_net.h, tc-netem(8) for what the words mean.
"""

from __future__ import annotations

import ctypes
import heapq
import json
import os
import random
import select
import signal
import socket
import struct
import sys
import time
from typing import Any

SOL_PACKET, PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING = 263, 15, 23
ETH_P_ALL = 0x0003
SO_RCVBUFFORCE, SO_SNDBUFFORCE = 33, 32
BUFFER_BYTES = 16 << 20
HEADER = struct.Struct("=BBHHHH")  # virtio_net_hdr: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset
NEEDS_CSUM = 1
LARGEST_FRAME = HEADER.size + 14 + 4 + 65536
# What waits longer for its turn at a limited rate is dropped, as a full queue drops it.
LONGEST_QUEUE_S = 0.4
AT_ONCE = 64
_PR_SET_PDEATHSIG = 1


class Flow:
    """One direction, and the state of what it has to do."""

    def __init__(self, values: dict[str, Any], output: socket.socket) -> None:
        self.key = (values["in"], values["out"], values.get("mac"))
        self.output = output
        self.mac = bytes.fromhex(values["mac"].replace(":", "")) if values.get("mac") else None
        self.delay: float = values.get("delay", 0.0)
        self.jitter: float = values.get("jitter", 0.0)
        self.rate: float = values.get("rate", 0)
        self.loss, self.duplicate, self.corrupt, self.reorder = (
            values.get(name, 0.0) / 100 for name in ("loss", "duplicate", "corrupt", "reorder")
        )
        self.random = random.Random(values.get("seed", 0))
        self.free_at = 0.0
        self.last = 0.0

    def takes(self, frame: bytes) -> bool:
        """Whether the frame is for this flow's receiver; a broadcast is for each."""
        at = HEADER.size
        return self.mac is None or bool(frame[at] & 1) or frame[at : at + 6] == self.mac

    def due(self, now: float, length: int) -> float | None:
        """When a frame that arrives now is to leave; None when it is lost."""
        chance = self.random.random
        if self.loss and chance() < self.loss:
            return None
        at = now
        if self.rate:
            start = max(now, self.free_at)
            if start - now > LONGEST_QUEUE_S:
                return None
            self.free_at = at = start + length * 8 / self.rate
        if self.reorder and chance() < self.reorder:
            return at
        if self.delay or self.jitter:
            at += max(0.0, self.delay + self.jitter * (2 * chance() - 1))
            if not self.reorder:
                at = self.last = max(at, self.last)
        return at


def corrupted(frame: bytes, chance: random.Random) -> bytes:
    """The frame with one bit turned after its checksum was made, so that the receiver can notice."""
    flags, gso_type, hdr_len, gso_size, start, offset = HEADER.unpack_from(frame)
    body = bytearray(frame[HEADER.size :])
    if flags & NEEDS_CSUM and not gso_type:
        total = body[start:] + (b"\0" if (len(body) - start) % 2 else b"")
        value = sum(struct.unpack(f">{len(total) // 2}H", total))
        while value >> 16:
            value = (value & 0xFFFF) + (value >> 16)
        struct.pack_into(">H", body, start + offset, (~value & 0xFFFF) or 0xFFFF)
        flags, start, offset = flags & ~NEEDS_CSUM, 0, 0
    bit = chance.randrange(14 * 8, len(body) * 8)
    body[bit // 8] ^= 1 << bit % 8
    return HEADER.pack(flags, gso_type, hdr_len, gso_size, start, offset) + bytes(body)


class Relay:
    """All flows of one lab."""

    def __init__(self, file: str, control: str) -> None:
        self._file = file
        self._control = socket.socket(socket.AF_UNIX)
        if os.path.exists(control):
            os.unlink(control)
        self._control.bind(control)
        self._control.listen()
        self._ports: dict[str, socket.socket] = {}
        self._flows: dict[socket.socket, list[Flow]] = {}
        self._queue: list[tuple[float, int, socket.socket, bytes]] = []
        self._count = 0

    def load(self) -> None:
        """Take over the flows of the file; frames that wait for a port that is still there are kept."""
        with open(self._file) as file:
            wanted = json.load(file)
        needed = {name for values in wanted for name in (values["in"], values["out"])}
        for name in self._ports.keys() - needed:
            self._ports.pop(name).close()
        for name in needed - self._ports.keys():
            self._ports[name] = _port(name)
        self._flows = {}
        for values in wanted:
            source = self._ports[values["in"]]
            self._flows.setdefault(source, []).append(Flow(values, self._ports[values["out"]]))
        alive = set(self._ports.values())
        self._queue = [entry for entry in self._queue if entry[2] in alive]
        heapq.heapify(self._queue)

    def run(self) -> None:
        while True:
            timeout = max(0.0, self._queue[0][0] - time.monotonic()) if self._queue else None
            # select: its timeout is in microseconds, where poll and epoll have milliseconds
            ready, _, _ = select.select([self._control, *self._flows], [], [], timeout)
            self._send_due()
            for source in ready:
                if source is self._control:
                    self._answer()
                elif source in self._flows:
                    self._receive(source)

    def _answer(self) -> None:
        client, _ = self._control.accept()
        with client:
            try:
                self.load()
                client.sendall(b"ok")
            except (OSError, ValueError, KeyError) as error:
                client.sendall(f"error {error}".encode())

    def _receive(self, source: socket.socket) -> None:
        for _ in range(AT_ONCE):
            try:
                frame = source.recv(LARGEST_FRAME)
            except BlockingIOError:
                return
            except OSError:  # the device went down; it says so once
                return
            now = time.monotonic()
            for flow in self._flows[source]:
                if flow.takes(frame):
                    self._pass(flow, frame, now)

    def _pass(self, flow: Flow, frame: bytes, now: float) -> None:
        copies = 2 if flow.duplicate and flow.random.random() < flow.duplicate else 1
        at = flow.due(now, len(frame) - HEADER.size)
        if at is None:
            return
        if flow.corrupt and flow.random.random() < flow.corrupt:
            frame = corrupted(frame, flow.random)
        for _ in range(copies):
            if at <= now:
                _send(flow.output, frame)
            else:
                self._count += 1
                heapq.heappush(self._queue, (at, self._count, flow.output, frame))

    def _send_due(self) -> None:
        now = time.monotonic()
        while self._queue and self._queue[0][0] <= now:
            _, _, output, frame = heapq.heappop(self._queue)
            _send(output, frame)


def _port(name: str) -> socket.socket:
    port = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    for option in (PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING):
        port.setsockopt(SOL_PACKET, option, 1)
    for option in (SO_RCVBUFFORCE, SO_SNDBUFFORCE):
        port.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
    port.bind((name, ETH_P_ALL))
    port.setblocking(False)
    return port


def _send(output: socket.socket, frame: bytes) -> None:
    try:
        output.send(frame)
    except OSError:
        return  # a full queue or a device that is down loses frames; so does a wire


def _favoured() -> None:
    """Come before others when a frame is due; a machine that does not grant it makes delays less exact."""
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    except OSError:
        try:
            os.nice(-10)
        except OSError:
            return


def main(file: str, control: str) -> int:
    with open("/proc/self/comm", "w") as comm:
        comm.write("davit-lab relay")
    parent = os.getpid()
    while True:
        pid = os.fork()
        if pid == 0:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != parent:
                return 1
            _favoured()
            relay = Relay(file, control)
            relay.load()
            relay.run()
        os.waitpid(pid, 0)
        time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
