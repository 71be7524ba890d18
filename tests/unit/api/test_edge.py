"""What every request meets: versions, errors, headers, the actor."""

from __future__ import annotations

import asyncio
import os

import orjson
import pytest

from services.api.errors import STATUS, status_of
from shared.bus.client import EMPTY
from shared.contracts import containers as contracts
from shared.contracts.containers import ContainerPage, CreatedContainer, PathStat, SystemInfo, WaitResult
from shared.errors import BY_CODE, Conflict, Internal, NotFound, NotModified


async def test_ping_names_the_engine_and_its_newest_api(edge):
    reply = await edge.client.request("GET", "/_ping")
    assert (reply.status, reply.body) == (200, b"OK")
    assert reply.headers["api-version"] == "1.56"
    assert reply.headers["ostype"] == "linux"
    assert reply.headers["docker-experimental"] == "false"
    assert reply.headers["builder-version"] == "1"
    assert reply.headers["swarm"] == "inactive"
    head = await edge.client.request("HEAD", "/v1.41/_ping")
    assert (head.status, head.body) == (200, b"")


@pytest.mark.parametrize(
    ("version", "text"),
    [
        (
            "1.23",
            "client version 1.23 is too old. Minimum supported API version is 1.24, "
            "please upgrade your client to a newer version",
        ),
        ("1.99", "client version 1.99 is too new. Maximum supported API version is 1.56"),
        ("1.56.1", "client version 1.56.1 is too new. Maximum supported API version is 1.56"),
    ],
)
async def test_versions_outside_the_range_are_refused_in_dockers_words(edge, version, text):
    reply = await edge.client.request("GET", f"/v{version}/info")
    assert reply.status == 400
    assert orjson.loads(reply.body) == {"message": text}


@pytest.mark.parametrize("prefix", ["", "/v1.24", "/v1.41", "/v1.50", "/v1.56"])
async def test_every_version_and_none_reach_the_same_route(edge, prefix):
    edge.bus.answer(contracts.LIST, ContainerPage(containers=[]))
    reply = await edge.client.request("GET", f"{prefix}/containers/json")
    assert (reply.status, reply.body) == (200, b"[]\n")


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/nothing"), ("DELETE", "/info"), ("GET", "/"), ("GET", "/v1.99/nothing"), ("GET", "/vX/info")],
)
async def test_unknown_paths_and_methods_are_pages_not_found(edge, method, path):
    reply = await edge.client.request(method, path)
    assert reply.status == 404
    assert orjson.loads(reply.body) == {"message": "page not found"}


@pytest.mark.parametrize(
    ("path", "location"),
    [("//info", "/info"), ("/v1.41//containers/./json?all=1", "/v1.41/containers/json?all=1"), ("/a/../info", "/info")],
)
async def test_paths_that_are_not_clean_are_redirected(edge, path, location):
    reply = await edge.client.request("GET", path)
    assert (reply.status, reply.headers["location"]) == (301, location)


async def test_options_are_answered_for_any_path(edge):
    assert (await edge.client.request("OPTIONS", "/v1.41/containers/json")).status == 200


@pytest.mark.parametrize(
    ("path", "status", "field"),
    [
        ("/containers/x/start?checkpoint=c", 400, "checkpoint"),
        ("/build/prune?max-used-space=5", 501, "max-used-space"),
        ("/build/prune?min-free-space=5", 501, "min-free-space"),
    ],
)
async def test_parameters_that_are_not_honoured_are_refused_by_name(edge, path, status, field):
    reply = await edge.client.request("POST", path)
    assert reply.status == status
    assert field in orjson.loads(reply.body)["message"]
    assert edge.bus.requests == []


async def test_a_query_that_is_not_well_escaped_is_refused(edge):
    reply = await edge.client.request("GET", "/containers/json?all=%zz")
    assert (reply.status, orjson.loads(reply.body)) == (400, {"message": 'invalid URL escape "%zz"'})


async def test_errors_of_services_keep_their_text(edge):
    edge.bus.answer(contracts.INSPECT, NotFound("No such container: x"))
    reply = await edge.client.request("GET", "/containers/x/json")
    assert (reply.status, orjson.loads(reply.body)) == (404, {"message": "No such container: x"})


async def test_not_modified_has_no_body(edge):
    edge.bus.answer(contracts.START, NotModified("already started"))
    reply = await edge.client.request("POST", "/containers/x/start")
    assert (reply.status, reply.body) == (304, b"")


async def test_a_defect_is_answered_and_the_connection_goes_on(edge):
    edge.bus.answer(contracts.INSPECT, RuntimeError("boom"))
    reply = await edge.client.request("GET", "/containers/x/json")
    assert reply.status == 500
    assert "boom" in orjson.loads(reply.body)["message"]


async def test_what_a_services_request_does_not_take_is_refused_by_name(edge):
    reply = await edge.client.request("GET", "/audit/checkpoints?limit=9223372036854775806")
    assert reply.status == 400
    assert "invalid value for count" in orjson.loads(reply.body)["message"]
    assert edge.bus.requests == []


async def test_who_asks_travels_with_the_request(edge):
    edge.bus.answer(contracts.KILL, EMPTY)
    reply = await edge.client.request("POST", "/containers/x/kill")
    assert edge.bus.contexts[0].actor == f"uid:{os.getuid()}"
    assert edge.bus.contexts[0].request_id == reply.headers["x-request-id"]


async def raw_head(edge, method, path, body=b""):
    """A response's head as it is on the wire: the names of its headers."""
    reader, writer = await edge.client.open()
    headers = {"Content-Type": "application/json"} if body else {}
    writer.write(edge.client.head(method, path, headers, body))
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    writer.close()
    return dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:] if line)


async def test_headers_are_spelled_as_docker_spells_them(edge):
    edge.bus.answer(contracts.STAT_PATH, PathStat(name="x", size=1, mode=0, mtime="", link_target=""))
    common = {"Api-Version", "Docker-Experimental", "Ostype", "Server", "Date", "X-Request-Id"}
    assert set(await raw_head(edge, "GET", "/_ping")) >= {
        *common,
        "Builder-Version",
        "Swarm",
        "Cache-Control",
        "Pragma",
    }
    assert {"X-Docker-Container-Path-Stat", *common} <= set(
        await raw_head(edge, "HEAD", "/containers/x/archive?path=/x")
    )
    refused = await raw_head(edge, "GET", "/containers/x/json")
    assert {"Content-Type", "Content-Length", *common} == set(refused)

    async def goes_on(_: object) -> WaitResult:
        await asyncio.sleep(0.01)  # a bus that answers at once would never let go of the loop
        return WaitResult(pending=True)

    edge.bus.answer(contracts.WAIT, goes_on)
    assert (await raw_head(edge, "POST", "/containers/x/wait"))["Transfer-Encoding"] == "chunked"


async def test_the_head_of_a_ping_has_no_length(edge):
    assert (await raw_head(edge, "HEAD", "/_ping"))["Content-Length"] == "0"
    assert (await raw_head(edge, "GET", "/_ping"))["Content-Length"] == "2"


async def test_one_connection_serves_many_requests(edge):
    edge.bus.answer(contracts.INFO, SystemInfo(containers=0, running=0, paused=0, stopped=0, nodes=[]))
    reader, writer = await edge.client.open()
    for _ in range(3):
        writer.write(edge.client.head("GET", "/_ping"))
        assert b"200 OK" in await asyncio.wait_for(reader.readuntil(b"\r\n\r\nOK"), 5)
    writer.close()


async def test_a_head_without_end_is_cut_off(edge):
    reader, writer = await edge.client.open()
    writer.write(b"GET /_ping HTTP/1.1\r\nHost: x\r\nX-A: ")
    for _ in range(20):
        writer.write(b"a" * 65536)
        await writer.drain()
    assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"HTTP/1.1 431 ")
    writer.close()


async def test_large_bodies_are_not_heads(edge):
    edge.bus.answer(contracts.CREATE, NotFound("No such image: x:latest"))
    body = b'{"Image":"x","Labels":{"a":"' + b"b" * (3 << 20) + b'"}}'
    reply = await edge.client.request("POST", CREATE, body, {"Content-Type": "application/json"})
    assert reply.status == 404


def test_every_error_has_a_status():
    assert set(STATUS) == set(BY_CODE.values())
    assert status_of(Conflict("x")) == 409
    assert status_of(Internal("x")) == 500


CREATE = "/containers/create"


@pytest.mark.parametrize(
    ("body", "content_type", "text"),
    [
        (b"", "application/json", "EOF"),
        (b"{bad", "application/json", "invalid JSON"),
        (b"[]", "application/json", "invalid JSON"),
        (b'{"Image":"x"} y', "application/json", "invalid JSON"),
        (b'{"Image":5}', "application/json", "Image"),
        (b'{"Image":"x","HostConfig":{"Memory":"5"}}', "application/json", "HostConfig.Memory"),
        (b'{"Image":"x"}', "text/plain", "unsupported Content-Type header (text/plain)"),
        (b"{}", "application/json", "Config cannot be empty in order to create a container"),
        (b"null", "application/json", "Config cannot be empty in order to create a container"),
    ],
)
async def test_bad_bodies_are_refused_before_anyone_is_asked(edge, body, content_type, text):
    reply = await edge.client.request("POST", CREATE, body, {"Content-Type": content_type})
    assert reply.status == 400
    assert text in orjson.loads(reply.body)["message"]
    assert edge.bus.requests == []


async def test_names_match_without_regard_to_case_and_null_is_the_zero_value(edge):
    edge.bus.answer(contracts.CREATE, CreatedContainer(id="c1"))
    body = b'{"image":"x","hostconfig":{"memory":7,"Binds":null},"Labels":{"image":"kept"},"unknown":1}'
    reply = await edge.client.request("POST", CREATE + "?name=/web", body)
    assert (reply.status, orjson.loads(reply.body)) == (201, {"Id": "c1", "Warnings": []})
    sent = edge.bus.requests[0][1]
    assert (sent.name, sent.config.image, sent.host_config.memory) == ("web", "x", 7)
    assert sent.config.labels == {"image": "kept"}


@pytest.mark.parametrize("last", ["9" * 5000, "x", "-1", "٣"])
async def test_a_last_event_id_that_is_no_number_is_refused(edge, last):
    reply = await edge.client.request("GET", "/audit", headers={"Last-Event-ID": last})
    assert reply.status == 400
    assert b"Last-Event-ID" in reply.body


@pytest.mark.parametrize(
    "field",
    [{"DataPathPort": 4790}, {"DefaultAddrPool": ["10.9.0.0/16"]}, {"SubnetSize": 28}, {"ForceNewCluster": True}],
)
async def test_what_has_no_effect_on_a_new_cluster_is_refused_by_name(edge, field):
    body = orjson.dumps({"ListenAddr": "0.0.0.0:2377", "SubnetSize": 24, **field})
    reply = await edge.client.request("POST", "/swarm/init", body, {"Content-Type": "application/json"})
    assert reply.status == 501
    assert next(iter(field)).encode() in reply.body
