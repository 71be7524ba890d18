"""One pretended launch without effects: reading an order, making its plan and streams, talking, logging."""

from __future__ import annotations

import _socket
import os
import time

from services.executor.runtime import jsonlite
from services.executor.runtime.commands.info import example
from services.executor.runtime.launch import launcher, zygote
from services.executor.runtime.launch import order as launch
from services.executor.runtime.launch.sync import Channel
from services.executor.runtime.shim import frames
from services.executor.runtime.shim.exitrecord import ExitRecord
from services.executor.runtime.shim.shim import Shim
from services.executor.runtime.shim.streams import Client
from services.executor.runtime.spec import validate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from services.executor.runtime.cgroups.interface import CgroupBackend

#: the interpreter starts to adapt a function at its eighth call
TIMES = 12


def once(groups: CgroupBackend) -> None:
    """Everything of a launch that is calculation or concerns descriptors alone."""
    spec = example()
    log = {"driver": "json-file", "path": "/dev/null"}
    order = {"id": "rehearsal", "bundle": "/", "spec": spec, "rootfs": {"lower": ["/"]}, "log": log, "open_stdin": True}
    own, details = zygote.unpack_packet(zygote.pack_packet(*zygote.pack_order(order)), [])
    plan = launch.container_plan({**jsonlite.loads(details), **own}, [])
    for check in validate.CHECKS:
        check(plan)
    groups.validate(plan.linux.get("resources") or {})
    plan.process.environment()
    groups.open(own["birth"]["cgroup"])
    _streams(own)
    _talk()
    ExitRecord.of_status(0).to_dict()
    _hand_over(own)


def _hand_over(order: dict[str, Any]) -> None:
    """What a launcher says to its shim, and what the shim does until the process ends."""
    ours, theirs = launcher.pair()
    agents, asked = _socket.socketpair()
    streams = launch.Streams(order)
    giving = Shim(order, b"", [])
    giving.adopt(asked.detach(), None)
    giving.listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    giving.oom_fd = os.eventfd(0, os.EFD_CLOEXEC)
    giving.started_at_ns = time.time_ns()
    giving.launched = launcher.Adopted(
        {"pid": os.getpid(), "private_pids": True, "cgroup": "/"}, streams.outputs, streams.input, None
    )
    launcher.give(theirs, giving)
    giving.close_all()
    taken = launcher.taken(ours)
    agents.send(frames.pack({"id": 1, "op": "wait"}))
    taken.turn(0)
    agents.close()
    taken.turn(0)
    taken.close_all()
    streams.close_theirs()
    if streams.log is not None:
        streams.log.close()
    theirs.close()


def _streams(order: dict[str, object]) -> None:
    streams = launch.Streams(order)
    theirs = streams.theirs
    os.write(theirs[1], b"out\n")
    os.write(theirs[2], b"err\n")
    streams.close_theirs()
    for output in streams.outputs:
        while output.pump([]):
            pass
        os.close(output.fd)
    if streams.input is not None:
        streams.input.write(b"in")
        streams.input.close()
    if streams.log is not None:
        streams.log.close()


def _talk() -> None:
    ours, theirs = Channel.pair()
    ours.send("ready", wait=False)
    theirs.receive()
    ours.close()
    theirs.close()
    one, other = _socket.socketpair()
    client = Client(one)
    client.send({"id": 1, "ok": {}})
    unpacker = frames.Unpacker()
    unpacker.feed(other.recv(4096))
    unpacker.next()
    one.close()
    other.close()
