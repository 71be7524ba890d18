"""Joins the agent's parts. The only place that builds concrete ones."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
from pathlib import Path

from services.executor.agent.containers.health import HealthChecks
from services.executor.agent.containers.inventory import InventoryLoop
from services.executor.agent.containers.launch import Launcher
from services.executor.agent.containers.lifecycle import Containers
from services.executor.agent.containers.netfiles import ResolverDefaults
from services.executor.agent.containers.probes import Probes
from services.executor.agent.containers.records import NodeRecords
from services.executor.agent.containers.reports import Reporter
from services.executor.agent.containers.shutdown import end_all
from services.executor.agent.execs.launch import ExecLauncher
from services.executor.agent.execs.watching import Execs
from services.executor.agent.facts import node_facts, with_runtimes
from services.executor.agent.files.archive import Archives
from services.executor.agent.files.rootfs import RootFilesystems
from services.executor.agent.files.volumes import NodeVolumes
from services.executor.agent.handlers import Handlers
from services.executor.agent.layers.store import NodeLayers
from services.executor.agent.membership import Member
from services.executor.agent.network import NodeNetwork
from services.executor.agent.shims.runtimes import Runtimes
from services.executor.agent.shims.zygote import Zygote
from services.executor.runtime.cgroups import detect
from shared.cluster.membership import ClusterDirectory
from shared.config import EngineConfig
from shared.service import ServiceContext
from shared.version import VERSION

log = logging.getLogger(__name__)


async def start(ctx: ServiceContext) -> None:
    """Take over the node's containers, then serve orders for it."""
    config = ctx.config
    data_root, run_dir = Path(config.data_root), Path(config.run_dir)
    cgroups = detect()
    records = NodeRecords(data_root, run_dir)
    records.load()

    async def settled() -> None:
        records.settle_all()

    ctx.on_close(settled)

    zygote = Zygote(run_dir)
    await zygote.start()
    ctx.on_close(zygote.close)

    network = NodeNetwork(ctx.bus, config, ctx.node, data_root / "network")
    volumes = NodeVolumes(data_root)
    at_once = config.max_concurrent_downloads
    layers = NodeLayers(ctx.bus, ctx.node, data_root / "layers", records, ctx.spawn, at_once=at_once)
    await layers.start()
    ctx.on_close(layers.close)
    runtimes = Runtimes(run_dir, config.runtimes)
    resolver = ResolverDefaults.of(config)
    launcher = Launcher(
        layers, records, zygote, network, volumes, runtimes, cgroup_v2=cgroups.kind == "v2", resolver=resolver
    )
    reporter = Reporter(ctx.bus, ctx.spawn, records.acknowledged)
    containers = Containers(
        ctx.node, records, launcher, network, cgroups, reporter, ctx.spawn, default_cgroup=config.default_cgroup
    )
    exec_launcher = ExecLauncher(containers, zygote)
    execs = Execs(ctx.node, ctx.bus, records, exec_launcher, reporter, ctx.spawn)
    probes = Probes(records, exec_launcher, ctx.spawn)
    health = HealthChecks(ctx.node, probes, reporter, ctx.spawn)
    containers.on_started.append(health.started)
    containers.on_exited.append(health.exited)
    archives = Archives(ctx.bus, records, RootFilesystems(data_root, records, volumes.source), ctx.spawn)

    await network.start()
    ctx.on_close(network.close)
    await runtimes.sweep({record.id for record in records.all() if record.status in ("starting", "running", "paused")})
    await probes.recover()
    await containers.recover()
    await execs.recover()
    handlers = Handlers(ctx.bus, containers, execs, network, volumes, archives, layers, cgroups, ctx.spawn, resolver)
    await handlers.serve(ctx.node)
    facts = with_runtimes(node_facts(ctx.node, cgroups.kind), runtimes, config.default_runtime)
    facts.labels, facts.version = list(config.labels), VERSION
    inventory = InventoryLoop(ctx.bus, ctx.node, facts, containers, execs, layers)

    async def reload(changed: EngineConfig) -> None:
        runtimes.configure(changed.runtimes)
        inventory.renew(with_runtimes(inventory.facts, runtimes, changed.default_runtime))

    ctx.on_reload(reload)
    ctx.on_close(functools.partial(_tidy_control_groups, cgroups.open(config.default_cgroup).paths))
    _end_containers_with_the_engine(ctx, containers)
    ctx.spawn(inventory.run(), name="inventory")
    await Member(ctx.bus, ctx.node, ClusterDirectory(data_root), records, ctx.spawn).start()
    await asyncio.sleep(0)


async def _tidy_control_groups(paths: dict[str, str]) -> None:
    """Take the engine's own parent group away where no container is below it any more."""
    for path in paths.values():
        with contextlib.suppress(OSError):  # not empty, or never made
            os.rmdir(path)


def _end_containers_with_the_engine(ctx: ServiceContext, containers: Containers) -> None:
    """Where the configuration wants it. Registered last, to be done first."""
    within_s = ctx.config.stop_within_s
    ctx.stop_within_s += within_s

    async def end() -> None:
        await end_all(containers, within_s)

    if not ctx.config.live_restore:
        ctx.on_close(end)
