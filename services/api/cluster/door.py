"""The door: where a machine that has a join token comes in, over TLS with the cluster's own certificate.

| request | answer |
| --- | --- |
| ``GET /ca`` | the CA's certificate, PEM: whoever joins compares its digest with that in the token |
| ``POST /join`` | a certificate and where the bus is, for who knows the token's secret |

Nothing else of the engine can be reached here. It is open while this machine is a manager.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import orjson
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.api.errors import body_of, status_of
from services.api.server import EdgeServer, TlsSettings, open_listener
from shared.bus.context import RequestContext, use_context
from shared.cluster.membership import ClusterDirectory, Membership
from shared.contracts import cluster as contract
from shared.errors import DavitError, InvalidArgument

if TYPE_CHECKING:
    from services.api.call import Requester

log = logging.getLogger(__name__)

LIMIT_BYTES = 64 * 1024


class Door:
    """Opened and closed as this machine becomes a manager and ceases to be one."""

    def __init__(self, bus: Requester, directory: ClusterDirectory) -> None:
        self._bus = bus
        self._directory = directory
        self._server: EdgeServer | None = None
        self._open_for: Membership | None = None

    async def follow(self, membership: Membership | None) -> None:
        """Be open exactly while `membership` is a manager's. An address that cannot be bound is logged."""
        wanted = membership if membership is not None and membership.role == "manager" else None
        if self._open_for == wanted:
            return
        await self.close()
        if wanted is None:
            return
        tls = TlsSettings(str(self._directory.certificate), str(self._directory.key))
        host = f"[{wanted.listen}]" if ":" in wanted.listen else wanted.listen
        try:
            listener = open_listener(f"tcp://{host}:{wanted.port}", tls=tls, allow_insecure=True)
        except DavitError as error:
            log.error("nobody can join here: %s", error)
            return
        routes = [Route("/ca", self._ca), Route("/join", self._join, methods=["POST"])]
        self._server = EdgeServer(Starlette(routes=routes))
        await self._server.listen(listener)
        self._open_for = wanted

    async def close(self) -> None:
        if self._server is not None:
            server, self._server = self._server, None
            self._open_for = None
            await server.close()

    async def _ca(self, _: Request) -> Response:
        return Response(self._directory.ca.read_bytes(), media_type="application/x-pem-file")

    async def _join(self, request: Request) -> Response:
        try:
            joined = await self._let_in(request)
        except DavitError as error:
            return Response(body_of(error.message), status_of(error), media_type="application/json")
        return Response(joined.model_dump_json(), media_type="application/json")

    async def _let_in(self, request: Request) -> contract.Joined:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > LIMIT_BYTES:
                raise InvalidArgument(f"request body is larger than {LIMIT_BYTES} bytes")
        try:
            asked = contract.JoinCluster.model_validate(orjson.loads(body))
        except (orjson.JSONDecodeError, ValidationError) as error:
            raise InvalidArgument(f"the request to join cannot be read: {error}") from error
        seen_from = request.client.host if request.client is not None else ""
        with use_context(RequestContext(actor=f"joining:{seen_from}")):
            return await self._bus.request(contract.JOIN, asked.model_copy(update={"seen_from": seen_from}))
