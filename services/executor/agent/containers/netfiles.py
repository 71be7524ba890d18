"""A container's hosts, hostname and resolv.conf: written for a start, kept true while its networks change.

The container may edit them. A line of hosts is only ever added or taken for one address; resolv.conf is written anew
only while it is as it was generated.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from services.executor.agent.containers.records import ContainerPaths
from services.executor.agent.network.files import hosts_file, resolv_conf
from shared.config import EngineConfig
from shared.contracts.networks import Attachment
from shared.contracts.node import ContainerOrder

# What the container wrote need not be text.
_AS_IT_IS = "surrogateescape"
# And it may write as much as it likes.
LARGEST_BYTES = 1 << 20

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ResolverDefaults:
    """What the engine's configuration says for containers that say nothing themselves (``dns`` and its neighbours)."""

    servers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    @classmethod
    def of(cls, config: EngineConfig) -> ResolverDefaults:
        return cls(tuple(config.dns), tuple(config.dns_search), tuple(config.dns_opts))


NO_DEFAULTS = ResolverDefaults()


def write(order: ContainerOrder, paths: ContainerPaths, resolver: ResolverDefaults = NO_DEFAULTS) -> None:
    """All three, for a start; none for a container that shares another's network, and with it these files."""
    if order.network_mode.startswith("container:"):
        return
    paths.hosts.write_text(_hosts(order, order.attachments))
    paths.hostname.write_text(order.hostname + "\n")
    paths.resolv_conf.write_text(_resolv_conf(order, order.attachments, resolver))


def networks_changed(
    order: ContainerOrder,
    paths: ContainerPaths,
    before: Sequence[Attachment],
    started_ns: int,
    resolver: ResolverDefaults = NO_DEFAULTS,
) -> None:
    """Make the files of a running container say what its networks now are.

    Args:
        before: What `order.attachments` was.
        started_ns: When the container started, in nanoseconds since the epoch: files that are older are as generated.
    """
    if max(paths.hosts.stat().st_size, paths.resolv_conf.stat().st_size) > LARGEST_BYTES:
        log.warning("container %s has filled its hosts or resolv.conf: they are left as they are", order.id[:12])
        return
    old, new = _hosts(order, before).splitlines(), _hosts(order, order.attachments).splitlines()
    lines = [line for line in _read(paths.hosts).splitlines() if line not in old or line in new]
    lines += [line for line in new if line not in old and line not in lines]
    _rewrite(paths.hosts, "\n".join(lines) + "\n")
    wanted = _resolv_conf(order, order.attachments, resolver)
    untouched = paths.resolv_conf.stat().st_mtime_ns <= started_ns
    if untouched or _read(paths.resolv_conf) == _resolv_conf(order, before, resolver):
        _rewrite(paths.resolv_conf, wanted)


def _rewrite(path: Path, text: str) -> None:
    """In place, since the container has this very file mounted."""
    if _read(path) != text:
        path.write_text(text, errors=_AS_IT_IS)


def _read(path: Path) -> str:
    return path.read_text(errors=_AS_IT_IS)


def _hosts(order: ContainerOrder, attachments: Sequence[Attachment]) -> str:
    shared = order.network_mode == "host"
    return hosts_file(
        order.hostname,
        order.domainname,
        [] if shared else attachments,
        order.host_config.extra_hosts,
        host_network=shared,
    )


def _resolv_conf(order: ContainerOrder, attachments: Sequence[Attachment], resolver: ResolverDefaults) -> str:
    host = order.host_config
    return resolv_conf(
        attachments,
        host.dns or resolver.servers,
        host.dns_search or resolver.search,
        host.dns_options or resolver.options,
        host_network=order.network_mode == "host",
    )
