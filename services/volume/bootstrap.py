"""Joins the volume service's parts."""

from __future__ import annotations

from pathlib import PurePosixPath

from services.volume.handlers import VolumeHandlers
from shared.service import ServiceContext


async def start(ctx: ServiceContext) -> None:
    """Answer; what a crash left half removed is ended in the background, since nodes may be away."""
    root = PurePosixPath(ctx.config.data_root) / "volumes"
    handlers = VolumeHandlers(ctx.required_database, ctx.bus, ctx.clock, ctx.node, root)
    await handlers.serve()
    ctx.spawn(handlers.finish_removals(), name="unfinished removals")
