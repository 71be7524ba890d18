"""The zygote: a small process that forks a shim for every order, so that no interpreter starts on a container's way.

    zygote -- fork --> shim -- fork --> launcher      ahead of the order
    agent -- order (JSON, descriptors) --> launcher -- answers on the order's own descriptor --> agent

It has only the runtime imported, no threads and no state; it ends when the agent's end of its socket closes, and its
shims live on. An order too long for one packet comes in a memfd, the last of its descriptors.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` itself costs an enum module
import _socket
import gc
import os
import select
import sys

from services.executor.runtime import jsonlite
from services.executor.runtime.kernel import calls as kernel
from services.executor.runtime.launch.sync import received_fds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LARGEST_ORDER = 1 << 17
# Stands for an order that comes in a file.
LONG = bytes(4)
PAUSE_MS = 20
# The kernel passes 253 at once (unix(7), SCM_RIGHTS); a launcher gives the shim a few more than came with its order.
MOST_FDS = 240


def pack_order(order: dict[str, Any]) -> tuple[bytes, bytes]:
    """(what the shim needs, what only its child needs) of an order, each as JSON.

    Raises:
        InvalidSpec: what can be seen to be wrong already.
    """
    from services.executor.runtime.launch import order as launch

    own = {key: value for key, value in order.items() if key not in launch.DETAILS}
    if "exec_id" not in order:
        own["birth"] = launch.birth_hints(order)
    details = {key: order[key] for key in launch.DETAILS if key in order}
    return jsonlite.dumps(own).encode(), jsonlite.dumps(details).encode()


def pack_packet(own: bytes, details: bytes) -> bytes:
    """One packet of both: the first one's length in four bytes, big-endian, then the two."""
    return len(own).to_bytes(4, "big") + own + details


def unpack_packet(packet: bytes, fds: list[int]) -> tuple[dict[str, Any], bytes]:
    """The inverse. An empty packet says that the last descriptor is a file that holds it."""
    if packet == LONG:
        with open(fds.pop(), "rb") as file:
            file.seek(0)
            packet = file.read()
    size = 4 + int.from_bytes(packet[:4], "big")
    return jsonlite.loads(packet[4:size]), packet[size:]


def warm_up() -> None:
    """Import and look up everything that a shim would otherwise do for itself, then keep the collector off it."""
    import binascii  # noqa: F401
    import fcntl  # noqa: F401

    from services.executor.runtime.launch import order as launch
    from services.executor.runtime.shim.logfile import JsonLog, register_codec_error  # noqa: F401

    register_codec_error()
    launch.backend()
    rehearse()
    gc.collect()
    gc.disable()
    gc.freeze()


def rehearse() -> None:
    """Go through what every shim does, often enough for the interpreter to settle.

    It adapts code to what it sees by rewriting it, at the first dozen calls. Done after the fork that would cost each
    shim and each init a copy of the pages the code is in.
    """
    from services.executor.runtime.launch import order as launch
    from services.executor.runtime.launch import rehearsal

    for _ in range(rehearsal.TIMES):
        rehearsal.once(launch.backend())


def serve(socket: _socket.socket) -> None:
    """Keep a shim with its launcher ready for the next order, until the agent is gone.

    A page written here becomes the private page of the shim forked before, so the loop does as little as it can.
    """
    # children are nobody's business here: the kernel reaps them
    _signal.signal(_signal.SIGCHLD, _signal.SIG_IGN)
    # a shim goes when its process has gone, not when somebody stops an engine; a zygote when its agent has
    for number in (_signal.SIGTERM, _signal.SIGINT, _signal.SIGHUP):
        _signal.signal(number, _signal.SIG_IGN)
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    orders = select.poll()
    orders.register(socket.fileno(), select.POLLIN)
    while True:
        taken, ours = os.pipe2(os.O_CLOEXEC)
        if os.fork() == 0:
            os.close(taken)
            _become_shim(socket, ours, null)
        os.close(ours)
        got = os.read(taken, 1)
        os.close(taken)
        if not got and _is_over(socket):
            return
        # The next pair is not to compete with this order for a processor; unless another order waits for it already.
        orders.poll(PAUSE_MS)


def _is_over(socket: _socket.socket) -> bool:
    """Whether the launcher went because the agent has gone, and not because somebody killed it."""
    try:
        return not socket.recv(1, _socket.MSG_PEEK | _socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False


def _become_shim(socket: _socket.socket, taken: int, null: int) -> None:
    from services.executor.runtime.launch import launcher as handover
    from services.executor.runtime.shim import shim

    status = 1
    try:
        _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
        os.setsid()
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        os.close(null)
        kernel.rename_process("davit-shim")
        ours, theirs = handover.pair()
        own_pid = os.getpid()
        launcher = os.fork()
        if launcher == 0:
            handover.die_with(own_pid)
            ours.close()
            _launch(socket, taken, theirs)
            os._exit(0)
        theirs.close()
        socket.close()
        os.close(taken)
        made, packet, fds = handover.wait(ours, launcher)
        if made is not None:
            made.serve()
        elif packet:
            shim.run(*unpack_packet(packet, fds), fds)
        status = 0
    finally:
        os._exit(status)


def _launch(socket: _socket.socket, taken: int, channel: _socket.socket) -> None:
    """Be a launcher: take the next order, and carry it out or pass it on."""
    from services.executor.runtime.launch import launcher as handover

    packet, ancillary, _flags, _address = socket.recvmsg(
        LARGEST_ORDER, _socket.CMSG_SPACE(4 * MOST_FDS), _socket.MSG_CMSG_CLOEXEC
    )
    if not packet:
        return
    os.write(taken, b"t")
    os.close(taken)
    socket.close()
    fds = received_fds(ancillary)
    if len(packet) > len(LONG):
        order, details = unpack_packet(packet, fds)
        if handover.suits(order):
            handover.launch_for_parent(channel, order, details, fds)
            return
    handover.pass_on(channel, packet, fds)


def main(argv: list[str]) -> int:
    """`--socket N`: serve orders from the inherited descriptor N."""
    if len(argv) != 3 or argv[1] != "--socket" or not argv[2].isdigit():
        sys.stderr.write("usage: zygote --socket <descriptor>\n")
        return 2
    socket = _socket.socket(fileno=int(argv[2]))
    os.set_inheritable(socket.fileno(), False)
    os.chdir("/")
    kernel.set_process_name("davit-zygote")
    warm_up()
    socket.send(b"ready")
    serve(socket)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
