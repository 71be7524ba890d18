"""The store as nodes of a cluster reach it, where no registry is configured: open while this machine is a manager."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from services.image.catalog.depot import Depot
from services.image.server.nodes import REPOSITORY, NodeDoor, NodeTokens, fingerprint
from shared.cluster.membership import ClusterDirectory, Membership
from shared.errors import DavitError
from shared.service import ServiceContext


class ClusterStore:
    """Follows this machine's membership.

    Args:
        door: Is told where nodes find the store.
    """

    def __init__(self, ctx: ServiceContext, depot: Depot, door: NodeDoor) -> None:
        self._ctx = ctx
        self._depot = depot
        self._door = door
        self._directory = ClusterDirectory(ctx.config.data_root)
        self._serving: asyncio.Task[None] | None = None
        self._open_for: Membership | None = None

    async def follow(self, _: bytes = b"") -> None:
        """Be open exactly while this machine is a manager. An address that cannot be bound is logged."""
        membership = self._directory.membership()
        wanted = membership if membership is not None and membership.role == "manager" else None
        if wanted == self._open_for:
            return
        self._close()
        if wanted is None:
            return
        try:
            await self._open(wanted)
        except DavitError as error:
            self._ctx.log.error("nodes of the cluster cannot fetch layers here", reason=str(error))
            return
        self._open_for = wanted

    async def _open(self, wanted: Membership) -> None:
        # Imported here: a process that serves no registry does without a web server in its memory.
        from services.image.server.access import Gate
        from services.image.server.app import Registry
        from services.image.server.repositories import Repositories
        from services.image.server.rights import Rights
        from services.image.server.serving import listen, serve
        from services.image.server.uploads import Uploads
        from services.image.server.users import Users

        content = self._depot.content
        nobody = Gate(Users(Path(os.devnull)), Rights(None), None)
        tokens = await asyncio.to_thread(NodeTokens.of, content.root)
        repositories = Repositories(self._ctx.required_database)
        app = Registry(self._depot, repositories, Uploads(content), nobody, tokens)
        host = f"[{wanted.listen}]" if ":" in wanted.listen else wanted.listen
        listener = listen(f"{host}:{wanted.layers_port}")
        certificate, key = str(self._directory.certificate), str(self._directory.key)
        self._serving = self._ctx.spawn(serve(app, listener, certificate, key), name="store for nodes")
        address = f"[{wanted.advertise}]" if ":" in wanted.advertise else wanted.advertise
        url = f"https://{address}:{wanted.layers_port}/v2/{REPOSITORY}/blobs/"
        self._door.serve_at(url, fingerprint(certificate), tokens)

    def _close(self) -> None:
        if self._serving is not None:
            self._serving.cancel()
            self._serving, self._open_for = None, None
