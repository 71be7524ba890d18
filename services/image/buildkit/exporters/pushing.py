"""Pushes of what was built, with the credentials of the build's client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import orjson

from services.image.buildkit.progress import VertexLine
from services.image.buildkit.targets import Place, credentials_of
from shared.bus.streams import offer
from shared.contracts import images as contracts
from shared.docker.references import Reference
from shared.errors import Unavailable


async def push(place: Place, name: Reference, line: VertexLine) -> None:
    """Push an image that has a name. Raises DavitError in the registry's words."""
    auths = await credentials_of(place.session)(str(name))
    bus = place.kitchen.bus
    stream = await offer(bus)
    async with stream:
        whole = name.with_default_tag()
        request = contracts.PushImage(
            stream=stream.ref, ref=whole.name, tag=whole.tag or "", auth=next(iter(auths.values()), None)
        )
        await bus.request(contracts.PUSH, request)
        await stream.close_write()
        async for record in _records(stream):
            if "errorDetail" in record:
                raise Unavailable(f"failed to push {whole}: {record['errorDetail'].get('message')}")
            _tell(line, record)


def _tell(line: VertexLine, record: dict[str, Any]) -> None:
    if not record.get("id"):
        return
    detail = record.get("progressDetail") or {}
    done = record.get("status") in ("Pushed", "Layer already exists")
    line.status(
        f"pushing layer {record['id']}",
        current=detail.get("current") or 0,
        total=detail.get("total") or 0,
        done=done,
    )


async def _records(chunks: AsyncIterator[bytes]) -> AsyncIterator[dict[str, Any]]:
    rest = b""
    async for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for text in whole:
            if text.strip():
                yield orjson.loads(text)
