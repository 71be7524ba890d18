"""What API 1.51 to 1.56 have brought, and that older versions are as they were."""

from __future__ import annotations

import orjson
import pytest

from services.api import body
from services.api.requests.ageing import to_version
from services.api.requests.containers import ContainerBody
from services.api.routes.events import JSON, JSON_LINES, JSON_SEQ, NDJSON, form_of
from services.api.views import images, networks
from services.api.views import usage as usages
from shared.contracts import containers as contracts
from shared.contracts import images as image_contracts
from shared.contracts.containers import ContainerPage, ContainerSummary, StatsResult
from shared.contracts.docker import ContainerConfig
from shared.contracts.images import Image
from shared.contracts.networks import EndpointView, Ipam, IpamPool, Network
from shared.errors import InvalidArgument
from tests.unit.api.test_streaming import event
from tests.unit.api.test_views import a_container


@pytest.mark.parametrize(
    ("accept", "version", "form"),
    [
        ("", (1, 56), JSON),
        ("*/*", (1, 56), JSON),
        ("application/json", (1, 56), JSON),
        ("application/json-seq", (1, 52), JSON_SEQ),
        ("application/json-seq", (1, 51), JSON),
        ("application/x-ndjson", (1, 52), NDJSON),
        ("application/jsonl", (1, 52), JSON),
        ("application/jsonl", (1, 53), JSON_LINES),
        ("application/x-ndjson;q=0.5, application/json-seq", (1, 53), JSON_SEQ),
        ("application/x-ndjson;q=0.5, application/json-seq;q=0.1", (1, 53), NDJSON),
        ("application/x-ndjson;q=x, text/html", (1, 53), NDJSON),
    ],
)
def test_the_form_of_events(accept, version, form):
    assert form_of(accept, version) == form


@pytest.mark.parametrize(("version", "legacy"), [("v1.51", True), ("v1.52", False)])
@pytest.mark.parametrize("accept", [JSON, NDJSON, JSON_SEQ])
async def test_events_lose_their_legacy(edge, version, legacy, accept):
    edge.events.history = [event(2)]
    path = f"/{version}/events?since=1&until=5"
    reply = await edge.client.request("GET", path, headers={"Accept": accept})
    if accept == JSON_SEQ and not legacy:
        assert reply.body.startswith(b"\x1e")
    message = orjson.loads(reply.body.lstrip(b"\x1e"))
    assert reply.headers["content-type"] == (JSON if legacy else accept)
    assert ({"status", "id", "from"} <= set(message)) is legacy
    assert message["Action"] == "start"


@pytest.mark.parametrize(("health", "shown"), [("healthy", "healthy"), ("", "none")])
async def test_lists_tell_of_health(edge, health, shown):
    line = ContainerSummary(
        id="c", name="n", image="i", image_id="sha256:0", command="c", created_unix=0, status="running",
        status_text="0|0|0|" + health, health=health, failing_streak=2 if health else 0,
    )  # fmt: skip
    edge.bus.answer(contracts.LIST, ContainerPage(containers=[line]))
    (old,) = orjson.loads((await edge.client.request("GET", "/v1.51/containers/json")).body)
    (new,) = orjson.loads((await edge.client.request("GET", "/v1.52/containers/json")).body)
    assert "Health" not in old
    assert new["Health"] == {"Status": shown, "FailingStreak": 2 if health else 0}


def test_containers_lose_the_bridges_settings():
    from services.api.views import containers

    value = a_container()
    old, new = (containers.container(value, version, "/d") for version in ((1, 51), (1, 52)))
    assert set(new["NetworkSettings"]) == {"SandboxID", "SandboxKey", "Ports", "Networks"}
    assert set(old["NetworkSettings"]) > {"IPAddress", "Bridge", "MacAddress", *new["NetworkSettings"]}
    assert "OnBuild" in old["Config"]
    assert "OnBuild" not in new["Config"]


def test_a_containers_own_mac_address_is_refused():
    data = b'{"Image":"x","MacAddress":"02:42:ac:11:00:02"}'
    to_version(body.decode(data, ContainerBody, (1, 51)), (1, 51))
    with pytest.raises(InvalidArgument, match="container-wide MAC address no longer supported"):
        to_version(body.decode(data, ContainerBody, (1, 52)), (1, 52))


def test_images_leave_out_what_is_empty():
    value = Image(id="sha256:0", config=ContainerConfig(cmd=["sh"]))
    old, new = (images.image(value, version, "/d") for version in ((1, 51), (1, 52)))
    assert {"Parent", "Comment", "DockerVersion", "Author"} <= set(old)
    assert not {"Parent", "Comment", "DockerVersion", "Author"} & set(new)
    assert set(new["Config"]) == {"Cmd"}
    full = images.image(Image(id="sha256:0", comment="c", author="a", parent="sha256:1"), (1, 52), "/d")
    assert (full["Comment"], full["Author"], full["Parent"]) == ("c", "a", "sha256:1")


@pytest.mark.parametrize(
    ("pool", "addresses", "used", "free"),
    [
        (IpamPool(subnet="10.0.0.0/24", gateway="10.0.0.1"), [], 3, 253),
        (IpamPool(subnet="10.0.0.0/24", gateway="10.0.0.1"), ["10.0.0.2/24", "10.0.0.9/24"], 5, 251),
        (IpamPool(subnet="10.0.0.0/24", ip_range="10.0.0.8/30", aux={"a": "10.0.0.5"}), ["10.0.0.9/24"], 4, 3),
        (IpamPool(subnet="fd00::/64", gateway="fd00::1"), ["fd00::2/64"], 3, 2**64 - 3),
        (IpamPool(subnet="fd00::/48"), [], 1, 2**64 - 1),
    ],
)
def test_networks_count_their_addresses(pool, addresses, used, free):
    key = "ipv6_address" if ":" in pool.subnet else "ipv4_address"
    endpoints = [
        EndpointView(container_id=str(number), name="n", endpoint_id="e", **{key: address})
        for number, address in enumerate(addresses)
    ]
    network = Network(id="n", name="n", ipam=Ipam(config=[pool]), endpoints=endpoints)
    assert "Status" not in networks.with_status(network, (1, 51))
    status = networks.with_status(network, (1, 52))["Status"]["IPAM"]["Subnets"]
    assert status == {pool.subnet: {"IPsInUse": used, "DynamicIPsAvailable": free}}


FOUND = {
    "LayersSize": 100,
    "Images": [{"Containers": 1, "Size": 60, "SharedSize": 20}, {"Containers": 0, "Size": 60, "SharedSize": 20}],
    "Containers": [{"State": "running", "SizeRw": 3}, {"State": "exited", "SizeRw": 4}, {"State": "created"}],
    "Volumes": [{"UsageData": {"RefCount": 1, "Size": 5}}, {"UsageData": {"RefCount": 0, "Size": 6}}],
    "BuildCache": [
        {"InUse": True, "Shared": False, "Size": 7},
        {"InUse": False, "Shared": False, "Size": 8},
        {"InUse": False, "Shared": True, "Size": 9},
    ],
}
LISTS = {"LayersSize", "Images", "Containers", "Volumes", "BuildCache"}
SUMS = {"ImageUsage", "ContainerUsage", "VolumeUsage", "BuildCacheUsage"}


def test_disk_usage_has_sums():
    shown = usages.usage(FOUND, (1, 53), verbose=False)
    assert shown == {
        "ImageUsage": {"ActiveCount": 1, "TotalCount": 2, "Reclaimable": 60, "TotalSize": 100},
        "ContainerUsage": {"ActiveCount": 1, "TotalCount": 3, "Reclaimable": 4, "TotalSize": 7},
        "VolumeUsage": {"ActiveCount": 1, "TotalCount": 2, "Reclaimable": 6, "TotalSize": 11},
        "BuildCacheUsage": {"ActiveCount": 1, "TotalCount": 3, "Reclaimable": 8, "TotalSize": 15},
    }


@pytest.mark.parametrize(
    ("version", "verbose", "keys"),
    [
        ((1, 41), False, {*LISTS, "BuilderSize"}),
        ((1, 51), False, LISTS),
        ((1, 52), False, LISTS | SUMS),
        ((1, 52), True, SUMS),
        ((1, 53), False, SUMS),
    ],
)
def test_disk_usage_by_version(version, verbose, keys):
    shown = usages.usage(FOUND, version, verbose=verbose)
    assert set(shown) == keys
    if keys & SUMS:
        assert ("Items" in shown["ImageUsage"]) is verbose
    assert set(usages.usage({"Volumes": []}, (1, 53), verbose=False)) == {"VolumeUsage"}


async def test_attestations_are_refused_by_name(edge):
    edge.bus.answer(image_contracts.INSPECT, Image(id="sha256:0"))
    reply = await edge.client.request("GET", "/images/team/app:1/attestations")
    assert (reply.status, "attestations" in orjson.loads(reply.body)["message"]) == (501, True)


@pytest.mark.parametrize(("version", "told"), [("v1.51", False), ("v1.52", True)])
async def test_stats_tell_of_the_operating_system(edge, version, told):
    edge.bus.answer(contracts.STATS, StatsResult(stats={"precpu_stats": {}, "cpu_stats": {}}))
    reply = await edge.client.request("GET", f"/{version}/containers/x/stats?stream=0&one-shot=1")
    assert ("os_type" in orjson.loads(reply.body)) is told


@pytest.mark.parametrize(("version", "asked"), [("v1.53", False), ("v1.54", True)])
async def test_identities_come_with_the_manifests(edge, version, asked):
    edge.bus.answer(image_contracts.LIST, image_contracts.LIST.reply(images=[]))
    await edge.client.request("GET", f"/{version}/images/json?identity=1")
    assert edge.bus.requests[-1][1].manifests is asked
