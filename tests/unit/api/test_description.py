"""The description that the engine serves of its own API."""

from __future__ import annotations

import orjson
import pytest

from services.api import versions
from services.api.app import all_routes
from services.api.description import Description
from services.api.versions import SINCE, UNTIL

METHODS = {"get", "head", "post", "put", "delete"}


@pytest.fixture(scope="module")
def description() -> Description:
    return Description(all_routes())


def operations(document):
    return {
        operation["operationId"]: operation
        for path in document["paths"].values()
        for method, operation in path.items()
        if method in METHODS
    }


def parameters(operation) -> set[str]:
    return {parameter["name"] for parameter in operation.get("parameters", ())}


async def test_it_is_served_for_the_version_that_is_asked_for(edge):
    for path, version in (("/openapi.json", versions.NEWEST), ("/v1.40/openapi.json", "1.40")):
        reply = await edge.client.request("GET", path)
        document = orjson.loads(reply.body)
        assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
        assert (document["info"]["version"], document["servers"]) == (version, [{"url": f"/v{version}"}])


async def test_a_page_shows_it(edge):
    reply = await edge.client.request("GET", "/v1.44/docs")
    assert reply.status == 200
    assert b"/v1.44/openapi.json" in reply.body
    assert b"//" not in reply.body, "a page beside an engine's door loads nothing from elsewhere"
    for name, kind in (("swagger-ui.css", "text/css"), ("swagger-ui-bundle.js", "text/javascript")):
        assert f'"docs/{name}"'.encode() in reply.body
        file = await edge.client.request("GET", f"/v1.44/docs/{name}", json=False)
        assert (file.status, file.headers["content-type"].partition(";")[0]) == (200, kind)
        assert len(file.body) > 100_000
    assert (await edge.client.request("GET", "/v1.44/docs/other.js")).status == 404


def test_every_route_is_described_under_a_name_of_its_own(description):
    described = [route for route in all_routes() if route.include_in_schema]
    assert len(operations(description.whole)) == sum(len(route.methods or ()) for route in described)
    assert all(operation["description"] for operation in operations(description.whole).values())


def test_what_a_version_does_not_have_is_not_in_its_description(description):
    old, new = (operations(description.of(version)) for version in ((1, 40), (1, 48)))
    assert parameters(new["ImageList"]) - parameters(old["ImageList"]) == {"shared-size", "manifests"}
    assert parameters(old["ImageList"]) - parameters(new["ImageList"]) == {"filter"}
    fields = [
        description.of(version)["components"]["schemas"]["NetworkBody"]["properties"] for version in ((1, 47), (1, 48))
    ]
    assert set(fields[1]) - set(fields[0]) == {"EnableIPv4"}


def test_integers_say_their_width(description):
    fields = description.of((1, 50))["components"]["schemas"]["HostConfig"]["properties"]
    assert fields["Memory"]["format"] == "int64"
    assert fields["PidsLimit"]["anyOf"][0]["format"] == "int64"
    weight = fields["BlkioWeight"]
    assert (weight["format"], weight["minimum"], weight["maximum"]) == ("uint16", 0, 65535)


def test_references_lead_somewhere(description):
    document = description.of((1, 40))
    text = orjson.dumps(document).decode()
    for name in {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}:
        assert name in document["components"]["schemas"]
    assert SINCE not in orjson.dumps(description.of((1, 24))).decode()
    assert UNTIL not in orjson.dumps(description.of(versions.accept(versions.NEWEST))).decode()
