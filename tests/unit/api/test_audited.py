"""What the edge records of requests, and when."""

from __future__ import annotations

import asyncio
import os

import orjson
import pytest

from services.api.app import all_routes
from services.api.auditing import actions
from services.api.auditing.actions import Effect
from services.api.auditing.identity import identity_of
from shared.auditing.policy import Policy
from shared.contracts import containers as contracts
from shared.contracts.containers import Container, ContainerPage, CreatedContainer
from shared.errors import Internal, NotFound


@pytest.fixture
def kept(edge):
    return edge.auditing.recorder._ready_sink()


def kinds(kept):
    return [record["kind"] for record in kept.records]


CREATE = orjson.dumps({"Image": "busybox", "Env": ["PASSWORD=hunter22"], "Labels": {"tier": "prod"}})


async def test_a_request_is_received_before_a_service_is_asked_and_complete_afterwards(edge, kept):
    seen = []

    def create(_):
        seen.extend(kinds(kept))
        return CreatedContainer(id="f" * 64)

    edge.bus.answer(contracts.CREATE, create)
    await edge.client.request("POST", "/v1.41/containers/create?name=web", CREATE, {"User-Agent": "tests"})
    assert seen == ["received"]
    received, complete = kept.records
    assert received["request"] == complete["request"]
    assert received["action"] == complete["action"] == {"resource": "container", "verb": "create", "object": "web"}
    assert received["http"] == {"method": "POST", "path": "/containers/create", "route": "/containers/create"}
    assert received["client"] == {"version": "1.41", "agent": "tests"}
    assert received["asked"]["query"] == {"name": "web"}
    assert received["asked"]["body"]["Env"] == ["PASSWORD=***"]
    assert received["body"]["bytes"] == len(CREATE)
    assert received["level"] == "Request"
    assert complete["outcome"]["status"] == 201
    assert complete["outcome"]["sent_bytes"] > 64


async def test_the_peer_of_a_unix_socket_is_who_the_kernel_says(edge, kept):
    edge.bus.answer(contracts.LIST, ContainerPage(containers=[]))
    await edge.client.request("GET", "/containers/json")
    actor = kept.records[0]["actor"]
    assert (actor["name"], actor["uid"], actor["gid"]) == (f"uid:{os.getuid()}", os.getuid(), os.getgid())
    assert actor["pid"] == os.getpid()
    assert actor["exe"] == os.readlink("/proc/self/exe")


async def test_refused_requests_are_recorded_with_the_reason(edge, kept):
    edge.bus.answer(contracts.INSPECT, NotFound("No such container: x"))
    await edge.client.request("GET", "/containers/x/json")
    await edge.client.request("POST", "/containers/create", b"{nonsense")
    await edge.client.request("GET", "/v1.99/info")
    await edge.client.request("GET", "/nothing/there")
    outcomes = [
        (record["outcome"]["status"], record["outcome"].get("error"))
        for record in kept.records
        if record["kind"] == "complete"
    ]
    assert outcomes[0] == (404, "No such container: x")
    assert [status for status, _ in outcomes] == [404, 400, 400, 404]
    assert kinds(kept) == ["received", "complete"] * 4


async def test_an_error_that_quotes_a_secret_is_recorded_without_it(edge, kept):
    edge.bus.answer(contracts.CREATE, NotFound("nothing for PASSWORD=hunter22 here"))
    reply = await edge.client.request("POST", "/containers/create", CREATE)
    assert b"hunter22" in reply.body
    assert kept.records[1]["outcome"]["error"] == "nothing for PASSWORD=*** here"


async def test_enforced_refuses_before_the_effect_what_cannot_be_recorded(edge, kept):
    edge.auditing.recorder.mode = "enforced"
    kept.full = True
    edge.bus.answer(contracts.CREATE, CreatedContainer(id="f" * 64))
    reply = await edge.client.request("POST", "/containers/create", CREATE)
    assert reply.status == 503
    assert b"cannot be recorded" in reply.body
    assert edge.bus.requests == []
    reply = await edge.client.request("GET", "/containers/json")
    assert (reply.status, edge.bus.requests) == (503, [])


async def test_enforced_still_carries_out_what_frees_space(edge, kept):
    edge.auditing.recorder.mode = "enforced"
    kept.full = True
    edge.bus.answer(contracts.REMOVE, contracts.REMOVE.reply())
    reply = await edge.client.request("DELETE", "/containers/web")
    assert reply.status == 204
    assert kinds(kept) == ["received", "complete"]


async def test_enforced_waits_for_the_disk_before_a_change_and_not_before_a_look(edge, kept):
    edge.auditing.recorder.mode = "enforced"
    edge.bus.answer(contracts.LIST, ContainerPage(containers=[]))
    await edge.client.request("GET", "/containers/json")
    assert kept.syncs == 0
    edge.bus.answer(contracts.CREATE, CreatedContainer(id="f" * 64))
    await edge.client.request("POST", "/containers/create", CREATE)
    assert kept.syncs == 1


async def test_best_effort_goes_on_and_counts_what_it_could_not_record(edge, kept):
    kept.full = True
    edge.bus.answer(contracts.CREATE, CreatedContainer(id="f" * 64))
    assert (await edge.client.request("POST", "/containers/create", CREATE)).status == 201
    assert kept.lost["count"] == 2
    kept.full = False
    await edge.client.request("POST", "/containers/create", CREATE)
    assert kinds(kept) == ["gap", "received", "complete"]
    assert kept.records[0]["gap"]["count"] == 2
    assert kept.lost is None


async def test_a_policy_says_what_is_recorded(edge, kept):
    edge.auditing.policy = Policy.parse(
        """
        default: Metadata
        rules:
        - {level: None, verbs: [list]}
        - {level: RequestResponse, verbs: [create], labels: {tier: prod}}
        """,
        "test",
    )
    edge.bus.answer(contracts.LIST, ContainerPage(containers=[]))
    await edge.client.request("GET", "/containers/json")
    assert kept.records == []
    edge.bus.answer(contracts.CREATE, CreatedContainer(id="f" * 64, warnings=["a warning"]))
    await edge.client.request("POST", "/containers/create", CREATE)
    assert [record.get("rule") for record in kept.records] == [2, None]
    assert kept.records[1]["answer"] == {"Id": "f" * 64, "Warnings": ["a warning"]}
    kept.records.clear()
    await edge.client.request("POST", "/containers/create", orjson.dumps({"Image": "x"}))
    assert kept.records[0]["level"] == "Metadata"
    assert "asked" not in kept.records[0]


async def test_labels_of_what_is_there_are_asked_for_when_a_rule_needs_them(edge, kept):
    edge.auditing.policy = Policy.parse("rules: [{level: None, labels: {quiet: '*'}}]", "test")
    inspected = Container.model_validate(
        {"id": "f" * 64, "name": "web", "created_at": "", "config": {"Labels": {"quiet": "yes"}}, "host_config": {}}
        | {"image": "x", "image_id": "y", "state": {"status": "running"}}
    )
    edge.bus.answer(contracts.INSPECT, inspected)
    edge.bus.answer(contracts.PAUSE, contracts.PAUSE.reply())
    assert (await edge.client.request("POST", "/containers/web/pause")).status == 204
    assert kept.records == []


async def test_a_body_that_is_not_parsed_has_its_digest_at_the_end(edge, kept):
    await edge.client.request(
        "PUT", "/containers/x/archive?path=/", b"not a tar", {"Content-Type": "application/x-tar"}
    )
    complete = kept.records[-1]
    assert complete["action"]["verb"] == "archive-put"
    assert complete["kind"] == "complete"


async def test_pings_are_not_recorded_unless_a_policy_says_so(edge, kept):
    await edge.client.request("GET", "/_ping")
    assert kept.records == []
    edge.auditing.policy = Policy()
    await edge.client.request("GET", "/_ping")
    assert kinds(kept) == ["received", "complete"]


async def test_a_client_that_leaves_ends_its_request_in_the_log(edge, kept):
    reader, writer = await edge.client.open()
    writer.write(edge.client.head("GET", "/events"))
    await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    assert kinds(kept) == ["received"]
    writer.close()
    async with asyncio.timeout(10):
        while kinds(kept) != ["received", "complete"]:  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.01)


def test_every_route_says_what_it_does():
    actions.check((method, route.path) for route in all_routes() for method in route.methods or ())
    found = actions.action_of("POST", "/containers/{anything}/start")
    assert found is not None
    assert found.effect is Effect.CHANGES
    with pytest.raises(Internal, match="POST /containers/\\{ref\\}/explode"):
        actions.check([("POST", "/containers/{ref}/explode")])


def test_no_request_that_changes_anything_counts_as_a_read():
    harmless = {"/containers/{}/wait"}
    for (method, path), action in actions.ACTIONS.items():
        if method not in ("GET", "HEAD") and path not in harmless:
            assert action.effect is not Effect.READS, (method, path)


def test_a_certificate_is_known_by_all_that_it_says():
    peer = {
        "subject": "ci",
        "distinguished_name": "commonName=ci,organizationName=x",
        "issuer": "commonName=ca",
        "serial": "01",
        "sans": ["DNS:ci.example", "email:a@b"],
        "fingerprint": "sha256:00",
    }
    identity = identity_of(peer)
    assert identity.fields["name"] == "tls:ci"
    assert identity.fields["sans"] == ["DNS:ci.example", "email:a@b"]
    assert set(identity.names) == {"tls:ci", "san:DNS:ci.example", "san:email:a@b", "fingerprint:sha256:00"}
    assert identity_of(peer) is identity
