"""Ping, version, info, disk usage and registry login.

Source: Docker Engine API 1.50, System.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import Query
from starlette.responses import PlainTextResponse, Response

from services.api import credentials
from services.api.answers import system as answers
from services.api.answers.containers import ContainerSummary
from services.api.call import Call, json_response
from services.api.declared import may
from services.api.requests.system import AuthBody, DiskUsageQuery
from services.api.routing import EdgeRouter
from services.api.views import containers as container_views
from services.api.views import images as image_views
from services.api.views import system as views
from services.api.views import volumes as volume_views
from services.api.views.usage import usage
from shared.bus.client import EMPTY
from shared.contracts import cluster as cluster_contracts
from shared.contracts import containers as contracts
from shared.contracts import images as image_contracts
from shared.contracts import volumes as volume_contracts
from shared.errors import InvalidArgument

# The classic builder. "2" would tell clients to prefer BuildKit, which is not served.
BUILDER_VERSION = "1"
PING_HEADERS = {
    "Builder-Version": BUILDER_VERSION,
    "Swarm": "inactive",
    "Cache-Control": "no-cache, no-store, must-revalidate",
    "Pragma": "no-cache",
}
USAGE_TYPES = ("container", "image", "volume", "build-cache")


router = EdgeRouter("System")


@router.get("/_ping", operation_id="SystemPing", response_class=PlainTextResponse, responses=may())
@router.head("/_ping", operation_id="SystemPingHead", response_class=PlainTextResponse, responses=may())
async def ping(call: Call) -> Response:
    """Whether the engine answers."""
    membership = call.deps.membership
    headers = PING_HEADERS if membership is None else PING_HEADERS | {"Swarm": f"active/{membership.role}"}
    return Response(b"" if call.method == "HEAD" else b"OK", 200, headers, "text/plain")


@router.get("/version", operation_id="SystemVersion", response_model=answers.SystemVersion, responses=may())
async def version(call: Call) -> Response:
    """The engine's version."""
    info = await call.ask(contracts.INFO, EMPTY)
    return json_response(views.version(info, call.deps.facts))


@router.get("/info", operation_id="SystemInfo", response_model=answers.SystemInfo, responses=may())
async def info(call: Call) -> Response:
    """The engine and its machine."""
    system, cluster, images = await asyncio.gather(
        call.ask(contracts.INFO, EMPTY),
        call.ask(cluster_contracts.INSPECT, EMPTY),
        call.ask(image_contracts.LIST, image_contracts.ListImages(all=True)),
    )
    return json_response(views.info(system, cluster, len(images.images), call.deps.facts, call.version))


@router.get("/system/df", operation_id="SystemDataUsage", response_model=answers.DiskUsage, responses=may())
async def disk_usage(call: Call, query: Annotated[DiskUsageQuery, Query()]) -> Response:
    """What takes how much of the disk."""
    wanted = query.type
    for name in wanted:
        if name not in USAGE_TYPES:
            raise InvalidArgument(f"unknown object type: {name}", field="type")
    kinds = wanted or list(USAGE_TYPES)
    parts = {"image": _images, "container": _containers, "volume": _volumes, "build-cache": _build_cache}
    results = await asyncio.gather(*(work(call) for kind, work in parts.items() if kind in kinds))
    found: dict[str, Any] = {}
    for result in results:
        found.update(result)
    return json_response(usage(found, call.version, verbose=query.verbose))


async def _images(call: Call) -> dict[str, Any]:
    used = await call.ask(image_contracts.DISK_USAGE, EMPTY)
    return {
        "LayersSize": used.layers_size_bytes,
        "Images": [image_views.summary(item, call.version) for item in used.images],
    }


async def _containers(call: Call) -> dict[str, Any]:
    request = contracts.ListContainers(all=True, size=True)
    items: list[ContainerSummary] = []
    while True:
        page = await call.ask(contracts.LIST, request, deadline_s=60)
        items += [container_views.summary(item, call.version) for item in page.containers]
        if not page.next:
            return {"Containers": items}
        request = request.model_copy(update={"after": page.next})


async def _volumes(call: Call) -> dict[str, Any]:
    result = await call.ask(volume_contracts.LIST, volume_contracts.ListVolumes(sizes=True))
    return {"Volumes": [volume_views.volume(item, usage=True) for item in result.volumes]}


async def _build_cache(call: Call) -> dict[str, Any]:
    result = await call.ask(image_contracts.BUILD_CACHE, EMPTY)
    return {"BuildCache": [image_views.build_cache(entry, call.version) for entry in result.entries]}


@router.post("/auth", operation_id="SystemAuth", response_model=answers.LoginAnswer, responses=may(401))
async def auth(call: Call, body: AuthBody) -> Response:
    """Try credentials at a registry."""
    registry_auth = credentials.from_object(body.model_dump(by_alias=False))
    result = await call.ask(image_contracts.LOGIN, image_contracts.LoginRequest(auth=registry_auth))
    return json_response({"Status": result.status, "IdentityToken": result.identity_token})
