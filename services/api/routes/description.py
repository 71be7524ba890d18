"""The description of this engine's API, for the version that the request names, and a page that shows it."""

from __future__ import annotations

from starlette.responses import Response

from services.api.call import Call
from services.api.declared import ObjectName
from services.api.routing import EdgeRouter

router = EdgeRouter("Description")


@router.get("/openapi.json", include_in_schema=False)
async def openapi(call: Call) -> Response:
    """An OpenAPI 3.1 document."""
    return Response(await call.scope["app"].described.document(call.version), media_type="application/json")


@router.get("/docs", include_in_schema=False)
async def docs(call: Call) -> Response:
    """A page to read and to try the description."""
    from services.api import description

    return Response(description.page(call.version), media_type="text/html")


@router.get("/docs/{name}", include_in_schema=False)
async def docs_file(call: Call, name: ObjectName) -> Response:
    """A file that the page is made of."""
    from services.api import description

    content, media_type = description.ui_file(name)
    return Response(content, media_type=media_type)
