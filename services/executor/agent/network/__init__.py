"""The node's side of networking: what the network service decided, made real in this node's kernel.

::

    wanted.py    records -> wanted kernel state (pure)          files.py   /etc/hosts, /etc/resolv.conf (pure)
    netlink.py   the netlink transport                          links.py   its messages for links, addresses, routes
    nft.py       the firewall table, compared and applied       ports.py   host ports held by bound sockets
    namespace.py entering and making network namespaces         sandbox.py one container's namespace; the warm pool
    kernel.py    all of it together, on one worker thread
    dns.py       127.0.0.11 in every namespace on user networks
    node.py      `NodeNetwork`: the only class the agent uses
"""

from services.executor.agent.network.node import NodeNetwork
from services.executor.agent.network.sandbox import Sandbox

__all__ = ["NodeNetwork", "Sandbox"]
