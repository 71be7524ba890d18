"""davit's registry as its clients see it: what the specification asks, what Debian's registry answers, TLS, users."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.image.catalog.depot import Depot
from services.image.catalog.manifests import OCI_INDEX, OCI_MANIFEST, digest_of
from services.image.jobs import Jobs
from services.image.server.nodes import NodeTokens
from services.image.server.repositories import Repositories
from services.image.server.tidying import BLOBS_KEPT_S, forget_unnamed
from services.image.sql.catalog import SqlCatalog
from services.image.store.content import ContentStore
from shared.contracts import images as contracts
from shared.contracts.images import RegistryAuth
from shared.errors import DavitError, InvalidArgument, Unauthorized
from shared.layers.store import LayerStore
from tests.conftest import missing
from tests.integration.image.conftest import Images, rootfs, running
from tests.integration.image.registries import skopeo
from tests.lab.nats import NatsServer
from tests.lab.registry import BINARY, DockerRegistry, bcrypt, certificate, free_port

pytestmark = pytest.mark.root
BLOB = b"0123456789" * 1000
DIGEST = digest_of(BLOB)
OTHER = "sha256:" + "0" * 64
CONFIG = b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}'
IMAGE = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": digest_of(CONFIG),
            "size": len(CONFIG),
        },
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": DIGEST, "size": len(BLOB)}],
    }
).encode()
KIND = {"Content-Type": OCI_MANIFEST}


@asynccontextmanager
async def served(own_nats: NatsServer, tmp_path: Path, **config: Any) -> AsyncIterator[tuple[Images, str]]:
    """The service with its registry, and where that is."""
    if os.geteuid() != 0:
        missing("root, to unpack layers,")
    address = f"127.0.0.1:{free_port()}"
    database = f"sqlite://{tmp_path}/db"
    async with running(own_nats, database, tmp_path / "data", registry_listen=address, **config) as images:
        yield images, address


class Talk:
    """Asks a registry, and notes what clients depend on of each answer: status, error code, some headers."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self.notes: list[tuple[str, object, object]] = []

    async def ask(self, what: str, method: str, path: str, **options: Any) -> httpx.Response:
        answer = await self._client.request(method, path, **options)
        code: object = None
        if answer.status_code >= 400 and method != "HEAD":
            code = [item["code"] for item in answer.json()["errors"]] if answer.content else "no body"
        self.notes.append((what, answer.status_code, code))
        return answer

    def note(self, what: str, *values: object) -> None:
        self.notes.append((what, values, None))

    async def begin(self, name: str = "team/app") -> str:
        return str((await self.ask("begin an upload", "POST", f"/v2/{name}/blobs/uploads/")).headers["location"])


def with_digest(place: str, digest: str) -> str:
    return str(httpx.URL(place).copy_merge_params({"digest": digest}))


async def conversation(talk: Talk) -> None:
    """What a client may ask of any registry."""
    await talk.ask("the root", "GET", "/v2/")
    for method in ("GET", "HEAD"):
        await talk.ask("a blob that is not there", method, f"/v2/team/app/blobs/{OTHER}")
        await talk.ask("a tag that is not there", method, "/v2/team/app/manifests/none")
        await talk.ask("a manifest that is not there", method, f"/v2/team/app/manifests/{OTHER}")
    await talk.ask("tags of nothing", "GET", "/v2/team/nothing/tags/list")
    # Blobs
    place = await talk.begin()
    await talk.ask("all at once", "PUT", with_digest(place, DIGEST), content=BLOB)
    place = await talk.begin()
    await talk.ask("another digest", "PUT", with_digest(place, OTHER), content=BLOB)
    place = await talk.begin()
    await talk.ask("no digest", "PUT", place, content=BLOB)
    place = await talk.begin()
    answer = await talk.ask("first part", "PATCH", place, content=BLOB[:10], headers={"Content-Range": "0-9"})
    talk.note("range", answer.headers["range"])
    answer = await talk.ask("how far", "GET", answer.headers["location"])
    talk.note("range", answer.headers["range"])
    place = answer.headers["location"]
    answer = await talk.ask("second part", "PATCH", place, content=BLOB[10:50], headers={"Content-Range": "10-49"})
    talk.note("range", answer.headers["range"])
    answer = await talk.ask("last part", "PUT", with_digest(answer.headers["location"], DIGEST), content=BLOB[50:])
    talk.note("digest", answer.headers["docker-content-digest"])
    place = await talk.begin()
    answer = await talk.ask("streamed", "PATCH", place, content=CONFIG)
    await talk.ask("its end", "PUT", with_digest(answer.headers["location"], digest_of(CONFIG)))
    await talk.ask("given up", "DELETE", await talk.begin())
    answer = await talk.ask("head", "HEAD", f"/v2/team/app/blobs/{DIGEST}")
    talk.note("length", answer.headers["content-length"], answer.headers["docker-content-digest"])
    for wanted in ("bytes=0-9", "bytes=9990-", "bytes=-10", "bytes=0-"):
        answer = await talk._client.get(f"/v2/team/app/blobs/{DIGEST}", headers={"Range": wanted})
        talk.note("piece", wanted, answer.status_code, answer.headers.get("content-range"))
    # Mounts
    mount = f"/v2/team/other/blobs/uploads/?mount={DIGEST}&from=team/app"
    await talk.ask("mount", "POST", mount)
    await talk.ask("mounted", "HEAD", f"/v2/team/other/blobs/{DIGEST}")
    await talk.ask("mount of nothing", "POST", f"/v2/team/other/blobs/uploads/?mount={OTHER}&from=team/app")
    # Manifests
    await talk.ask("no manifest", "PUT", "/v2/team/app/manifests/1", content=b"{", headers=KIND)
    lacking = IMAGE.replace(DIGEST.encode(), OTHER.encode())
    await talk.ask("a layer is missing", "PUT", "/v2/team/app/manifests/1", content=lacking, headers=KIND)
    await talk.ask("wrong digest", "PUT", f"/v2/team/app/manifests/{OTHER}", content=IMAGE, headers=KIND)
    for tag in ("1", "2", "3", "4"):
        answer = await talk.ask("a tag", "PUT", f"/v2/team/app/manifests/{tag}", content=IMAGE, headers=KIND)
        talk.note("digest", answer.headers["docker-content-digest"], bool(answer.headers["location"]))
    told = ("content-type", "content-length", "docker-content-digest")
    for method in ("GET", "HEAD"):
        for name in ("1", digest_of(IMAGE)):
            path = f"/v2/team/app/manifests/{name}"
            answer = await talk.ask("a manifest", method, path, headers={"Accept": OCI_MANIFEST})
            talk.note("it", *(answer.headers[key] for key in told))
    # Lists
    answer = await talk.ask("tags", "GET", "/v2/team/app/tags/list")
    talk.note("tags", answer.json()["name"], sorted(answer.json()["tags"]))
    # Deletion
    await talk.ask("delete", "DELETE", f"/v2/team/app/manifests/{digest_of(IMAGE)}")
    await talk.ask("deleted", "GET", f"/v2/team/app/manifests/{digest_of(IMAGE)}")
    await talk.ask("its tag", "GET", "/v2/team/app/manifests/1")
    await talk.ask("delete a blob", "DELETE", f"/v2/team/app/blobs/{DIGEST}")
    await talk.ask("deleted", "GET", f"/v2/team/app/blobs/{DIGEST}")
    await talk.ask("delete it again", "DELETE", f"/v2/team/app/blobs/{DIGEST}")


async def test_it_answers_as_debians_registry_does(own_nats: NatsServer, tmp_path: Path) -> None:
    if BINARY is None:
        missing("docker-registry")
    async with served(own_nats, tmp_path) as (_, address):
        with DockerRegistry(tmp_path / "registry") as theirs:
            notes = []
            for one in (theirs.domain, address):
                async with httpx.AsyncClient(base_url=f"http://{one}") as client:
                    talk = Talk(client)
                    await conversation(talk)
                    notes.append(talk.notes)
    different = [(ours, theirs) for ours, theirs in zip(notes[1], notes[0], strict=True) if ours != theirs]
    assert different == []


async def test_parts_must_fit(own_nats: NatsServer, tmp_path: Path) -> None:
    async with served(own_nats, tmp_path) as (_, address), httpx.AsyncClient(base_url=f"http://{address}") as client:
        place = (await client.post("/v2/a/blobs/uploads/")).headers["location"]
        late = {"Content-Range": "10-19"}
        for method, path in (("PATCH", place), ("PUT", f"{place}?digest={DIGEST}")):
            answer = await client.request(method, path, content=BLOB[10:20], headers=late)
            assert (answer.status_code, answer.headers["range"]) == (416, "0-0")
        assert (await client.patch(place, content=BLOB[:10], headers={"Content-Range": "0-9"})).status_code == 202
        assert (await client.patch(place, content=BLOB[:10], headers={"Content-Range": "0-9"})).status_code == 416
        answer = await client.patch(place, content=b"12", headers={"Content-Range": "10-19"})
        assert (answer.status_code, answer.json()["errors"][0]["code"]) == (400, "SIZE_INVALID")
        rest = {"Content-Range": f"10-{len(BLOB) - 1}"}
        assert (await client.put(f"{place}?digest={DIGEST}", content=BLOB[10:], headers=rest)).status_code == 201
        answer = await client.post("/v2/a/blobs/uploads/?digest=sha512:00", content=BLOB)
        assert (answer.status_code, answer.json()["errors"][0]["code"]) == (400, "DIGEST_INVALID")
        answer = await client.put("/v2/a/manifests/1", content=b" " * (5 << 20), headers=KIND)
        assert (answer.status_code, answer.json()["errors"][0]["code"]) == (413, "SIZE_INVALID")
        answer = await client.get("/v2/a/blobs/uploads/" + "0" * 48)
        assert (answer.status_code, answer.json()["errors"][0]["code"]) == (404, "BLOB_UPLOAD_UNKNOWN")
        for wanted in (f"bytes={len(BLOB)}-", "bytes=5-2"):
            assert (await client.get(f"/v2/a/blobs/{DIGEST}", headers={"Range": wanted})).status_code == 416


async def test_referrers_of_what_is_and_is_not_there(own_nats: NatsServer, tmp_path: Path) -> None:
    async with served(own_nats, tmp_path) as (_, address), httpx.AsyncClient(base_url=f"http://{address}") as client:
        empty = await client.get(f"/v2/a/referrers/{OTHER}")
        assert (empty.status_code, empty.headers["content-type"]) == (200, OCI_INDEX)
        assert empty.json() == {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}
        for blob in (BLOB, CONFIG):
            await client.post(f"/v2/a/blobs/uploads/?digest={digest_of(blob)}", content=blob)
        subject = {"mediaType": OCI_MANIFEST, "digest": OTHER, "size": 5}
        image = {**json.loads(IMAGE), "subject": subject, "annotations": {"k": "v"}}
        index = {
            "schemaVersion": 2,
            "mediaType": OCI_INDEX,
            "artifactType": "test/list",
            "manifests": [],
            "subject": subject,
        }
        for document, kind in ((image, OCI_MANIFEST), (index, OCI_INDEX)):
            data = json.dumps(document).encode()
            answer = await client.put(
                f"/v2/a/manifests/{digest_of(data)}", content=data, headers={"Content-Type": kind}
            )
            assert (answer.status_code, answer.headers["oci-subject"]) == (201, OTHER)
        found = {
            item["artifactType"]: item for item in (await client.get(f"/v2/a/referrers/{OTHER}")).json()["manifests"]
        }
        assert set(found) == {"application/vnd.oci.image.config.v1+json", "test/list"}
        assert found["application/vnd.oci.image.config.v1+json"]["annotations"] == {"k": "v"}
        chosen = await client.get(f"/v2/a/referrers/{OTHER}?artifactType=test/list")
        assert [item["artifactType"] for item in chosen.json()["manifests"]] == ["test/list"]
        assert chosen.headers["oci-filters-applied"] == "artifactType"


async def test_the_engines_own_images_are_not_deleted_here(own_nats: NatsServer, tmp_path: Path) -> None:
    async with served(own_nats, tmp_path) as (images, address):
        await images.import_tar(rootfs({"f": b"1"}), "own:1")
        async with httpx.AsyncClient(base_url=f"http://{address}") as client:
            answer = await client.delete("/v2/own/manifests/1")
            assert (answer.status_code, answer.json()["errors"][0]["code"]) == (405, "UNSUPPORTED")
            assert (await client.delete("/v2/own/manifests/2")).status_code == 404


async def test_blobs_that_no_manifest_names_go_after_a_day(own_nats: NatsServer, tmp_path: Path) -> None:
    async with served(own_nats, tmp_path) as (images, address):  # noqa: SIM117  # one needs the other
        async with httpx.AsyncClient(base_url=f"http://{address}") as client:
            for blob in (BLOB, CONFIG, b"never named", b"new"):
                await client.post(f"/v2/a/blobs/uploads/?digest={digest_of(blob)}", content=blob)
            assert (await client.put("/v2/a/manifests/1", content=IMAGE, headers=KIND)).status_code == 201
            content = ContentStore(images.data_root / "images")
            for blob in (BLOB, CONFIG, b"never named"):
                old = time.time() - BLOBS_KEPT_S - 1
                os.utime(content.path(digest_of(blob)), (old, old))
            depot = Depot(SqlCatalog(images.database), content, LayerStore(images.data_root / "layers"), Jobs())
            await forget_unnamed(depot, Repositories(images.database))
            await depot.collect()
            left = {blob for blob in (BLOB, CONFIG, b"never named", b"new") if content.has(digest_of(blob))}
            assert left == {BLOB, CONFIG, b"new"}
            assert (await client.head(f"/v2/a/blobs/{digest_of(b'never named')}")).status_code == 404


async def test_users_and_a_certificate(own_nats: NatsServer, tmp_path: Path) -> None:
    if shutil.which("skopeo") is None:
        missing("skopeo")
    cert, key = certificate(tmp_path / "tls")
    users = tmp_path / "users"
    users.write_text(f"user:{bcrypt('secret')}\n")
    config = {"registry_tls_cert": str(cert), "registry_tls_key": str(key), "registry_users": str(users)}
    async with served(own_nats, tmp_path, **config) as (images, address):
        authorities = images.data_root / "certs.d" / address
        authorities.mkdir(parents=True)
        shutil.copy(cert, authorities / "ca.crt")
        auth = RegistryAuth(username="user", password="secret")
        await images.import_tar(rootfs({"f": b"1"}), f"{address}/own/app:1")
        with pytest.raises(DavitError, match=r"unauthorized|no basic auth credentials"):
            await images.push(f"{address}/own/app:1")
        wrong = RegistryAuth(username="user", password="wrong")
        with pytest.raises(DavitError, match="unauthorized"):
            await images.push(f"{address}/own/app:1", auth=wrong)
        await images.push(f"{address}/own/app:1", auth=auth)
        login = contracts.LoginRequest(auth=auth.model_copy(update={"server_address": address}))
        assert (await images.bus.request(contracts.LOGIN, login)).status == "Login Succeeded"
        refused = contracts.LoginRequest(auth=wrong.model_copy(update={"server_address": address}))
        with pytest.raises(Unauthorized):
            await images.bus.request(contracts.LOGIN, refused)
        where = f"docker://{address}/own/app:1"
        trusted = f"--src-cert-dir={authorities}"
        await skopeo("copy", trusted, "--src-creds=user:secret", where, f"dir:{tmp_path}/copy")
        back = (f"--dest-cert-dir={authorities}", "--dest-creds=user:secret", f"dir:{tmp_path}/copy")
        await skopeo("copy", *back, f"docker://{address}/from/skopeo:1")
        await images.pull(f"{address}/from/skopeo:1", auth=auth)
        inspected = await images.inspect(f"{address}/from/skopeo:1")
        assert inspected.id == (await images.inspect(f"{address}/own/app:1")).id


async def test_a_certificate_that_is_not_there_is_said_at_once(own_nats: NatsServer, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="registry-tls-cert: /none does not exist"):
        async with served(own_nats, tmp_path, registry_tls_cert="/none"):
            pass


def test_tokens_of_nodes(tmp_path: Path) -> None:
    tokens = NodeTokens.of(tmp_path)
    token = tokens.make()
    assert NodeTokens.of(tmp_path).allows(f"Bearer {token}"), "every copy of the service has the same key"
    assert (tmp_path / "nodes.key").stat().st_mode & 0o777 == 0o600
    expiry, _, signature = token.partition(".")
    for bad in ("", "Bearer", f"Basic {token}", f"Bearer {int(expiry) + 1}.{signature}", "Bearer x.y"):
        assert not tokens.allows(bad)
    expired = str(int(time.time()) - 1)
    assert not tokens.allows(f"Bearer {expired}.{tokens._signature(expired)}")
    assert not NodeTokens(b"another key").allows(f"Bearer {token}")


async def test_the_store_is_a_registry(own_nats: NatsServer, tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    async with (
        running(own_nats, f"sqlite://{tmp_path}/db", tmp_path / "data", registry_listen=address) as images,
        httpx.AsyncClient(base_url=f"http://{address}") as client,
    ):
        assert (await client.get("/v2/")).status_code == 200
        blob = b"0123456789" * 1000
        digest = digest_of(blob)
        # In one request
        answer = await client.post(f"/v2/a/b/blobs/uploads/?digest={digest}", content=blob)
        assert (answer.status_code, answer.headers["location"]) == (201, f"/v2/a/b/blobs/{digest}")
        # In parts
        place = (await client.post("/v2/a/c/blobs/uploads/")).headers["location"]
        answer = await client.patch(place, content=blob[:4000], headers={"Content-Range": "0-3999"})
        assert (answer.status_code, answer.headers["range"]) == (202, "0-3999")
        assert (await client.patch(place, content=b"x", headers={"Content-Range": "9-9"})).status_code == 416
        assert (await client.get(place)).headers["range"] == "0-3999"
        assert (await client.put(f"{place}?digest={digest}", content=blob[4000:])).status_code == 201
        wrong = (await client.post("/v2/a/c/blobs/uploads/")).headers["location"]
        answer = await client.put(f"{wrong}?digest={digest}", content=b"other")
        assert (answer.status_code, answer.json()["errors"][0]["code"]) == (400, "DIGEST_INVALID")
        # Mounted
        assert (await client.post(f"/v2/a/d/blobs/uploads/?mount={digest}&from=a/b")).status_code == 201
        # In pieces
        answer = await client.get(f"/v2/a/d/blobs/{digest}", headers={"Range": "bytes=10-19"})
        assert (answer.status_code, answer.content) == (206, blob[10:20])
        assert (await client.get(f"/v2/a/d/blobs/{digest}", headers={"Range": "bytes=99999-"})).status_code == 416
        assert (await client.head(f"/v2/a/d/blobs/{digest}")).headers["content-length"] == str(len(blob))
        assert (await client.get(f"/v2/a/x/blobs/{digest}")).json()["errors"][0]["code"] == "BLOB_UNKNOWN"
        # Manifests, tags, referrers
        config = {"mediaType": "application/vnd.test", "digest": digest, "size": len(blob)}
        manifest = json.dumps({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": []}).encode()
        kind = {"Content-Type": OCI_MANIFEST}
        for tag in ("1", "2", "3"):
            assert (await client.put(f"/v2/a/b/manifests/{tag}", content=manifest, headers=kind)).status_code == 201
        subject = {"mediaType": OCI_MANIFEST, "digest": digest_of(manifest), "size": len(manifest)}
        note = json.dumps({**json.loads(manifest), "artifactType": "test/note", "subject": subject}).encode()
        answer = await client.put(f"/v2/a/b/manifests/{digest_of(note)}", content=note, headers=kind)
        assert (answer.status_code, answer.headers["oci-subject"]) == (201, digest_of(manifest))
        listed = (await client.get(f"/v2/a/b/referrers/{digest_of(manifest)}?artifactType=test/note")).json()
        assert [item["digest"] for item in listed["manifests"]] == [digest_of(note)]
        first = await client.get("/v2/a/b/tags/list?n=2")
        assert (first.json()["tags"], first.headers["link"]) == (
            ["1", "2"],
            '</v2/a/b/tags/list?last=2&n=2>; rel="next"',
        )
        assert (await client.get("/v2/a/b/tags/list?n=2&last=2")).json()["tags"] == ["3"]
        missing_blob = manifest.replace(digest.encode(), b"sha256:" + b"0" * 64)
        answer = await client.put("/v2/a/b/manifests/4", content=missing_blob, headers=kind)
        assert (answer.status_code, answer.json()["errors"][0]["code"]) == (400, "MANIFEST_BLOB_UNKNOWN")
        for kind_of_layer in (
            "oci.image.layer.nondistributable.v1.tar+gzip",
            "docker.image.rootfs.foreign.diff.tar.gzip",
        ):
            layer = {"mediaType": f"application/vnd.{kind_of_layer}", "digest": "sha256:" + "0" * 64, "size": 1}
            elsewhere = json.dumps({**json.loads(manifest), "layers": [layer]}).encode()
            assert (await client.put("/v2/a/b/manifests/5", content=elsewhere, headers=kind)).status_code == 201
        assert (await client.delete("/v2/a/b/manifests/5")).status_code == 202
        assert (await client.delete("/v2/a/b/manifests/3")).status_code == 202
        assert (await client.get("/v2/a/b/manifests/3")).json()["errors"][0]["code"] == "MANIFEST_UNKNOWN"
        assert (await client.delete(f"/v2/a/b/manifests/{digest_of(manifest)}")).status_code == 202
        assert (await client.get("/v2/a/b/tags/list")).json()["tags"] == []
        # The engine's own images
        await images.import_tar(rootfs({"f": b"1"}), "own:1")
        assert (await client.get("/v2/own/tags/list")).json() == {"name": "own", "tags": ["1"]}
        await images.pull(f"{address}/own:1")
        assert (await images.inspect(f"{address}/own:1")).id == (await images.inspect("own:1")).id
        if shutil.which("skopeo"):
            await skopeo("copy", "--src-tls-verify=false", f"docker://{address}/own:1", f"oci:{tmp_path}/layout:1")
            await skopeo("copy", "--dest-tls-verify=false", f"oci:{tmp_path}/layout:1", f"docker://{address}/new:1")


async def test_the_registry_has_users(own_nats: NatsServer, tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    users = tmp_path / "users"
    users.write_text(f"user:{bcrypt('secret')}\n")
    config = {"registry_listen": address, "registry_users": str(users)}
    async with (
        running(own_nats, f"sqlite://{tmp_path}/db", tmp_path / "data", **config),
        httpx.AsyncClient(base_url=f"http://{address}") as client,
    ):
        answer = await client.get("/v2/")
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, 'Basic realm="davit"')
        assert (await client.get("/v2/", auth=("user", "wrong"))).status_code == 401
        assert (await client.get("/v2/", auth=("user", "secret"))).status_code == 200
