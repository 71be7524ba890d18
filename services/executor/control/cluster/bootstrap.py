"""Joins the parts of control that keep the cluster."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from services.executor.control.cluster.founding import Founding
from services.executor.control.cluster.liveness import Liveness
from services.executor.control.cluster.nodes import ClusterNodes
from services.executor.control.cluster.watch import Watch
from shared.bus.leases import Lease
from shared.cluster.membership import ClusterDirectory
from shared.contracts import cluster as contract
from shared.service import ServiceContext

# Shorter than usual: what waits for it is the work of a node that is lost.
LEASE_S = 3.0


@dataclass(frozen=True)
class ClusterParts:
    """What is served of the cluster to services, and to nodes; and what else asks who lives."""

    liveness: Liveness
    watch: Watch
    served: list[tuple[Any, Any]]
    reported: list[tuple[Any, Any]]


async def cluster_parts(ctx: ServiceContext) -> ClusterParts:
    """Listen for nodes, and make the handlers."""
    database, directory = ctx.required_database, ClusterDirectory(ctx.config.data_root)
    liveness = Liveness(ctx.bus, ctx.clock)
    founding = Founding(database, ctx.bus, directory, ctx.clock, ctx.node, ctx.tell_supervisor)
    nodes = ClusterNodes(database, ctx.bus, directory, ctx.clock, liveness, founding.admit)
    watch = Watch(database, ctx.bus, liveness, founding.admit, ctx.node)
    await watch.start()
    ctx.spawn(liveness.watch_for_ever(), name="liveness")
    lease = Lease(ctx.bus, "control-cluster", f"{ctx.node}-{os.getpid()}", ttl_s=LEASE_S, renew_s=LEASE_S / 4)
    ctx.spawn(lease.hold(watch.write_down_for_ever), name="cluster")
    return ClusterParts(
        liveness,
        watch,
        served=[
            (contract.INIT, founding.init),
            (contract.INSPECT, founding.inspect),
            (contract.UPDATE, founding.update),
            (contract.LEAVE, founding.leave),
            (contract.JOIN, founding.join),
            (contract.NODES, nodes.list),
            (contract.NODE, nodes.inspect),
            (contract.UPDATE_NODE, nodes.update),
            (contract.REMOVE_NODE, nodes.remove),
        ],
        reported=[(contract.RENEW, founding.renew)],
    )
