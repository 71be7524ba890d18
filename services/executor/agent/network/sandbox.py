"""One container's network namespace, and the pool of namespaces made ahead of need.

A namespace with a veth pair takes the kernel about two milliseconds to make and depends on nothing in the container.
So the pool keeps some ready: loopback up, ``eth0`` inside and its host end both up and connected to nothing::

    pool thread   unshare(CLONE_NEWNET), sysctls, lo up, veth pair, both ends up      ahead of need
    prepare       MAC, address, route inside; host end onto its bridge                on the start path
    release       host end silenced, descriptor closed                                the kernel reaps the rest

Both ends are up before there is a bridge, so that the port forwards from the moment it is attached: a link that comes
up on a bridge loses the first packets until the kernel's link watch has run.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import threading
from collections import deque
from dataclasses import dataclass, field

from services.executor.agent.network import links, namespace
from services.executor.agent.network.netlink import Netlink

log = logging.getLogger(__name__)

POOL_SIZE = 8
POOL_LOW = 3
# A container's start is not to compete with making the next one's namespace, so refilling waits this long after the
# last use unless the pool runs low.
REFILL_PAUSE_S = 0.03
RETRY_PAUSE_S = 1.0
INTERFACE = "eth0"
DEFAULT_MTU = 1500
LOOPBACK_INDEX = 1

# Of a new namespace, before it has interfaces. IPv6 is enabled per interface that has an IPv6 address; loopback
# keeps ::1. The two others are Docker's defaults for containers with a namespace of their own.
INITIAL_SYSCTLS = (
    ("net/ipv6/conf/default/disable_ipv6", "1"),
    ("net/ipv4/ip_unprivileged_port_start", "0"),
    ("net/ipv4/ping_group_range", "0 2147483647"),
)


@dataclass(slots=True)
class Pair:
    """A veth pair. host_index in the engine's namespace, index in the container's."""

    host_name: str
    host_index: int
    index: int
    interface: str = INTERFACE


@dataclass(slots=True)
class Sandbox:
    """A network namespace the engine holds.

    Attributes:
        netns_fd: Its descriptor; -1 once closed.
        spare: The pair that came with it and has no endpoint yet.
        pairs: Pairs in use by endpoint id.
    """

    netns_fd: int
    spare: Pair | None = None
    pairs: dict[str, Pair] = field(default_factory=dict)
    kernel: Netlink | None = None

    def socket(self) -> Netlink:
        """A netlink socket inside; stays open until `close_socket`."""
        if self.kernel is None:
            with namespace.entered(self.netns_fd):
                self.kernel = Netlink()
        return self.kernel

    def close_socket(self) -> None:
        if self.kernel is not None:
            self.kernel.close()
            self.kernel = None

    def close(self) -> None:
        """Let go of it: without a process inside, the kernel removes it and its links. Idempotent."""
        self.close_socket()
        if self.netns_fd >= 0:
            os.close(self.netns_fd)
            self.netns_fd = -1


def new_host_name() -> str:
    """A name for a host end: ``dv`` and nine hex digits; bridges are ``dv-…``, so the two never meet."""
    return f"dv{secrets.token_hex(5)[:9]}"


def make_pair(host: Netlink, inside: Netlink, netns_fd: int, interface: str = INTERFACE, mtu: int = 1500) -> Pair:
    """A veth pair from the host into a namespace, both ends up."""
    name = new_host_name()
    host.run([links.new_veth(name, interface, netns_fd, mtu=mtu)])
    outer, inner = links.get_link(host, name), links.get_link(inside, interface)
    if outer is None or inner is None:
        raise OSError(f"link {name} vanished while it was made")
    # Without IPv6 link-local the host end stays silent until it is a bridge port, and afterwards too.
    host.run([links.set_link(outer.index, link_local=False), links.set_link(outer.index, up=True)])
    inside.run([links.set_link(inner.index, up=True)])
    return Pair(host_name=name, host_index=outer.index, index=inner.index, interface=interface)


def create_sandbox(host: Netlink | None) -> Sandbox:
    """A namespace with loopback up, and with an unused pair when a host socket is given."""
    with namespace.created() as netns_fd:
        for name, value in INITIAL_SYSCTLS:
            # A kernel without IPv6 has no such setting, and nothing to switch off.
            with contextlib.suppress(FileNotFoundError):
                namespace.set_sysctl(name, value)
        inside = Netlink()
        try:
            inside.run([links.set_link(LOOPBACK_INDEX, up=True)])
            spare = make_pair(host, inside, netns_fd) if host is not None else None
        except BaseException:
            inside.close()
            raise
    return Sandbox(netns_fd=netns_fd, spare=spare, kernel=inside)


class SandboxPool:
    """Sandboxes ready to use, refilled by a thread of its own."""

    def __init__(self, size: int = POOL_SIZE) -> None:
        self._size = size
        self._ready: deque[Sandbox] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._refill, name="netns-pool", daemon=True)
        self._thread.start()

    def take(self) -> Sandbox | None:
        """A ready sandbox, or None when the pool is empty. Never waits."""
        with self._changed:
            sandbox = self._ready.popleft() if self._ready else None
            self._changed.notify()
            return sandbox

    def close(self) -> None:
        """Stop the thread and let go of what is ready."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(timeout=5)
        while self._ready:
            self._ready.popleft().close()

    def __len__(self) -> int:
        return len(self._ready)

    def _refill(self) -> None:
        host = Netlink()
        try:
            while self._wait_for_room():
                try:
                    sandbox = create_sandbox(host)
                except OSError as error:
                    log.warning("cannot make a network namespace ahead of need: %s", error)
                    self._pause(RETRY_PAUSE_S)
                    continue
                with self._changed:
                    self._ready.append(sandbox)
        finally:
            host.close()

    def _wait_for_room(self) -> bool:
        """Wait until another sandbox is wanted and starts are not busy; False when closing."""
        with self._changed:
            while not self._closing:
                if len(self._ready) < POOL_LOW:
                    return True
                if len(self._ready) >= self._size:
                    self._changed.wait()
                elif not self._changed.wait(REFILL_PAUSE_S):
                    return True
            return False

    def _pause(self, seconds: float) -> None:
        with self._changed:
            if not self._closing:
                self._changed.wait(seconds)
