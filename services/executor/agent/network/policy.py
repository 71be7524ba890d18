"""What the operator decided about this node's kernel: the table's name, and what of it the engine may touch."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from services.executor.agent.network import wanted
from shared.config import EngineConfig
from shared.contracts.networks import Attachment, PublishedPort


@dataclass(frozen=True, slots=True)
class NetworkPolicy:
    """dockerd's switches for a node's network.

    Attributes:
        table: The name of the engine's firewall table; engines that share a network namespace have one each.
        firewall: Whether there is such a table at all (``iptables``).
        firewall6: Whether it is about IPv6 too (``ip6tables``).
        forwarding: Whether forwarding is turned on (``ip-forward``).
        proxy: Whether what the kernel does not translate is carried by the agent (``userland-proxy``).
    """

    table: str = "davit"
    firewall: bool = True
    firewall6: bool = True
    forwarding: bool = True
    proxy: bool = True

    @classmethod
    def of(cls, config: EngineConfig) -> NetworkPolicy:
        return cls(config.firewall_table, config.iptables, config.ip6tables, config.ip_forward, config.userland_proxy)

    def needs_proxy(self, attachment: Attachment, port: PublishedPort) -> bool:
        """Whether some of a port's traffic is to be carried."""
        if not self.proxy:
            return False
        translated = self.firewall and (self.firewall6 or ipaddress.ip_address(port.host_ip).version == 4)
        if translated:
            return wanted.needs_proxy(attachment, port)
        return bool(attachment.address or attachment.address6)
