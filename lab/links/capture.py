"""Writes the frames of a wire to a pcap file, as tcpdump would, without tcpdump.

Source: IETF draft-ietf-opsawg-pcap (the nanosecond variant of the format); packet(7).
"""

from __future__ import annotations

import select
import socket
import struct
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO

from lab.lab import Lab
from lab.links import names
from lab.links.fabric import OWN
from lab.links.wires import named_pair
from lab.topology.units import duration as seconds_of
from shared.errors import InvalidArgument, NotFound

_NANOSECONDS, _ETHERNET, _LONGEST = 0xA1B23C4D, 1, 262_144
_ETH_P_ALL = 3
_BUFFER_BYTES = 16 << 20


def capture(lab: Lab, link: str, file: Path, *, count: int | None = None, duration: str | None = None) -> int:
    """Record until so many frames, so long, or an interruption; how many frames it was.

    Args:
        link: ``a-b``, or ``node@segment`` for a node's way to a segment; both directions are recorded.
        file: ``-`` for the standard output.

    Raises:
        NotFound: There is no such link.
        InvalidArgument: The duration is none.
    """
    device = _device(lab, link)
    try:
        end = None if duration is None else time.monotonic() + seconds_of(duration)
    except ValueError as error:
        raise InvalidArgument(f"--for: {error}") from error
    with lab.namespaces.inside(OWN):
        tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    with ExitStack() as stack:
        stack.enter_context(tap)
        tap.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        tap.bind((device, _ETH_P_ALL))
        to_standard_output = str(file) == "-"
        output = sys.stdout.buffer if to_standard_output else stack.enter_context(file.open("wb"))
        output.write(struct.pack("=IHHiIII", _NANOSECONDS, 2, 4, 0, 0, _LONGEST, _ETHERNET))
        output.flush()
        return _record(tap, output, count, end)


def _record(tap: socket.socket, output: IO[bytes], count: int | None, end: float | None) -> int:
    written = 0
    with suppress(KeyboardInterrupt):
        while count is None or written < count:
            left = None if end is None else end - time.monotonic()
            if (left is not None and left <= 0) or not select.select([tap], [], [], left)[0]:
                break
            frame = tap.recv(_LONGEST)
            now = time.time_ns()
            header = struct.pack("=IIII", now // 10**9, now % 10**9, len(frame), len(frame))
            output.write(header + frame)
            output.flush()
            written += 1
    return written


def _device(lab: Lab, link: str) -> str:
    """The lab's port on which all of the wire's frames can be seen."""
    node, at, segment = link.partition("@")
    nets = {net.name: net for net in lab.nets}
    if at:
        if segment in nets and nets[segment].port(node):
            return names.port(segment, node)
        raise NotFound(f"{node} is not on a segment {segment}")
    if link in nets and nets[link].is_link:
        return names.port(link, nets[link].ports[0].node)
    if link in nets:
        raise InvalidArgument(f"{link} is a segment: say whose way to it, as in NODE@{link}")
    one, other = named_pair(link, lab.topology.nodes)
    for net in lab.nets:
        if net.is_link and net.port(one) and net.port(other):
            return names.port(net.name, one)
    raise NotFound(f"there is no link between {one} and {other}")
