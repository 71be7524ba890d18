"""The description of this engine's API: one OpenAPI document for each version, made of what the routes declare.

All of it is made once, with marks on what some versions do not have (`services.api.versions`); a version's document is
that without what it does not have.
"""

from __future__ import annotations

import asyncio
import functools
import importlib.resources
from collections.abc import Sequence
from typing import Any

import orjson
from fastapi.openapi.utils import get_openapi

from services.api import versions
from services.api.declared import LINES
from services.api.routing import EdgeRoute
from services.api.versions import SINCE, UNTIL, Version
from shared.errors import NotFound

TITLE = "davit"
ABOUT = (
    "The Docker Engine API as davit serves it. Names match without regard to case and null counts as left out in "
    "bodies; anything but an empty text, 0, no, false and none is true in a query."
)


class Description:
    """The description of some routes.

    It is made on the first question, and takes about a second of it; answers after that are kept.
    """

    def __init__(self, routes: Sequence[EdgeRoute]) -> None:
        self._routes = routes
        self._documents: dict[Version, bytes] = {}

    @functools.cached_property
    def whole(self) -> dict[str, Any]:
        """That of all versions at once."""
        described = get_openapi(
            title=TITLE,
            version=versions.NEWEST,
            description=ABOUT,
            routes=[route.described for route in self._routes],
            separate_input_output_schemas=False,
        )
        for path in described["paths"].values():
            for operation in path.values():
                _say_lines(operation["responses"])
        return described

    def of(self, version: Version) -> dict[str, Any]:
        """An OpenAPI document."""
        return of_version(self.whole, version)

    async def document(self, version: Version) -> bytes:
        """The same as JSON."""
        if version not in self._documents:
            self._documents[version] = await asyncio.to_thread(lambda: orjson.dumps(self.of(version)))
        return self._documents[version]


def _say_lines(responses: dict[str, Any]) -> None:
    """OpenAPI 3.2's `itemSchema` for answers of several documents: older readers know not to read them as one."""
    for response in responses.values():
        if response.pop(LINES, False):
            for content in response["content"].values():
                content["itemSchema"] = content.pop("schema")


def of_version(description: dict[str, Any], version: Version) -> dict[str, Any]:
    """A version's part of a description, with the addresses under which it is served."""
    text = "{}.{}".format(*version)
    result: dict[str, Any] = _part(description, version)
    result["info"]["version"] = text
    result["servers"] = [{"url": f"/v{text}"}]
    return result


def _part(value: Any, version: Version) -> Any:
    if isinstance(value, list):
        return [_part(item, version) for item in value if _exists(item, version)]
    if isinstance(value, float) and value.is_integer():
        return int(value)  # FastAPI's own model of the document has no other numbers
    if not isinstance(value, dict):
        return value
    part = {name: _part(item, version) for name, item in value.items() if _exists(item, version)}
    if isinstance(part.get("required"), list) and isinstance(part.get("properties"), dict):
        part["required"] = [name for name in part["required"] if name in part["properties"]]
    return part


def _exists(item: Any, version: Version) -> bool:
    """A parameter is marked in its schema, everything else in itself."""
    if not isinstance(item, dict):
        return True
    marks = item.get("schema", {}) | item if item.get("in") else item
    since, until = marks.get(SINCE), marks.get(UNTIL)
    if isinstance(since, str) and version < versions.parse(since):
        return False
    return not (isinstance(until, str) and version >= versions.parse(until))


# Swagger UI, of which the page is a frame, comes with the package fastapi-offline: the page needs no other server, and
# nothing from elsewhere runs beside an engine's door.
UI_FILES = {"swagger-ui.css": "text/css", "swagger-ui-bundle.js": "text/javascript"}
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>davit: Docker Engine API {version}</title>
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script>SwaggerUIBundle({{url: "/v{version}/openapi.json", dom_id: "#ui"}})</script>
</body>
</html>
"""


def page(version: Version) -> str:
    return PAGE.format(version="{}.{}".format(*version))


def ui_file(name: str) -> tuple[bytes, str]:
    """A file of Swagger UI and its media type. Raises NotFound."""
    if name not in UI_FILES:
        raise NotFound("page not found")
    return importlib.resources.files("fastapi_offline").joinpath("static", name).read_bytes(), UI_FILES[name]
