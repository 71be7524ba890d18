"""davit's registry with tokens and rights, as its clients see it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.image.catalog.manifests import digest_of
from shared.contracts import images as contracts
from shared.contracts.images import RegistryAuth
from shared.errors import DavitError, InvalidArgument, Unauthorized
from tests.conftest import missing
from tests.integration.image.conftest import Images, rootfs
from tests.integration.image.registries import skopeo
from tests.integration.image.test_registry_server import served
from tests.lab.nats import NatsServer
from tests.lab.registry import bcrypt

pytestmark = pytest.mark.root

RULES = [
    {"users": ["writer"], "repositories": ["team/*"], "actions": ["pull", "push"]},
    {"users": ["reader"], "repositories": ["team/*"], "actions": ["pull"]},
    {"users": ["keeper"], "repositories": ["*"], "actions": ["pull", "delete"]},
    {"users": ["writer"], "repositories": ["public/*"], "actions": ["pull", "push"]},
    {"users": ["@anonymous"], "repositories": ["public/*"], "actions": ["pull"]},
]


def files(tmp_path: Path, rules: list[dict[str, Any]] | None = None, **more: str) -> dict[str, str]:
    """Configuration with three users, whose passwords are their names."""
    users, rights = tmp_path / "users", tmp_path / "rights"
    users.write_text("".join(f"{user}:{bcrypt(user)}\n" for user in ("writer", "reader", "keeper")))
    rights.write_text(json.dumps(RULES if rules is None else rules))
    return {"registry_users": str(users), "registry_rights": str(rights), **more}


def auth(user: str, password: str | None = None) -> RegistryAuth:
    return RegistryAuth(username=user, password=password or user)


async def fill(images: Images, address: str, name: str = "team/app:1") -> str:
    """Push an image as the writer; its name."""
    whole = f"{address}/{name}"
    await images.import_tar(rootfs({"f": b"1"}), whole)
    await images.push(whole, auth=auth("writer"))
    return whole


async def test_tokens_carry_the_rights_of_their_users(own_nats: NatsServer, tmp_path: Path) -> None:
    async with served(own_nats, tmp_path, **files(tmp_path, registry_auth="token")) as (images, address):
        name = await fill(images, address)
        await images.pull(name, auth=auth("reader"))
        for user in ("reader", "keeper"):
            with pytest.raises(DavitError, match="denied"):
                await images.push(name, auth=auth(user))
        with pytest.raises(DavitError, match="incorrect username or password"):
            await images.pull(name, auth=auth("reader", "wrong"))
        with pytest.raises(DavitError, match=r"denied|authentication required"):
            await images.pull(name)
        public = await fill(images, address, "public/tool:1")
        await images.pull(public)
        with pytest.raises(DavitError, match=r"denied|authentication required"):
            await images.push(public)
        login = contracts.LoginRequest(auth=auth("reader").model_copy(update={"server_address": address}))
        assert (await images.bus.request(contracts.LOGIN, login)).status == "Login Succeeded"
        wrong = contracts.LoginRequest(auth=auth("reader", "wrong").model_copy(update={"server_address": address}))
        with pytest.raises(Unauthorized):
            await images.bus.request(contracts.LOGIN, wrong)


async def test_the_conversation_is_the_specifications(own_nats: NatsServer, tmp_path: Path) -> None:
    async with (
        served(own_nats, tmp_path, **files(tmp_path, registry_auth="token")) as (images, address),
        httpx.AsyncClient(base_url=f"http://{address}") as client,
    ):
        await fill(images, address)
        tags = "/v2/team/app/tags/list"
        challenge = f'Bearer realm="http://{address}/token",service="davit-registry"'
        assert (await client.get("/v2/")).headers["www-authenticate"] == challenge
        answer = await client.get(tags)
        scoped = f'{challenge},scope="repository:team/app:pull"'
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, scoped)

        async def token(user: str, scope: str) -> str:
            given = await client.get("/token", params={"service": "davit-registry", "scope": scope}, auth=(user, user))
            assert given.status_code == 200
            assert given.json()["expires_in"] >= 60
            return str(given.json()["token"])

        async def status(method: str, path: str, value: str) -> int:
            return (await client.request(method, path, headers={"Authorization": f"Bearer {value}"})).status_code

        pull = await token("reader", "repository:team/app:pull,push")
        assert await status("GET", tags, pull) == 200
        assert await status("GET", "/v2/", pull) == 200
        assert await status("GET", "/v2/public/tool/tags/list", pull) == 401
        answer = await client.post("/v2/team/app/blobs/uploads/", headers={"Authorization": f"Bearer {pull}"})
        assert (answer.status_code, answer.json()["errors"][0]["code"]) == (401, "DENIED")
        assert 'error="insufficient_scope"' in answer.headers["www-authenticate"]
        assert await status("GET", tags, pull[:-2] + "AA") == 401
        assert await status("DELETE", "/v2/team/app/manifests/1", await token("writer", "repository:team/app:*")) == 401
        # A repository's blobs are not mounted by one who may not read it.
        away = await token("writer", "repository:public/new:pull,push")
        mount = f"/v2/public/new/blobs/uploads/?from=team/app&mount={digest_of(b'')}"
        assert await status("POST", mount, away) == 202
        # The form of OAuth 2
        form = {
            "grant_type": "password",
            "username": "reader",
            "password": "reader",
            "scope": "repository:team/app:pull",
        }
        given = await client.post("/token", data=form)
        assert await status("GET", tags, given.json()["access_token"]) == 200
        assert (await client.post("/token", data=form | {"password": "wrong"})).status_code == 401
        assert (await client.post("/token", data=form | {"grant_type": "refresh_token"})).status_code == 400
        # A password with each request does as well.
        assert (await client.get(tags, auth=("reader", "reader"))).status_code == 200
        assert (await client.post("/v2/team/app/blobs/uploads/", auth=("reader", "reader"))).status_code == 403
        # Rights that were taken away do not outlive it in tokens.
        (tmp_path / "rights").write_text("[]")
        assert await status("GET", tags, pull) == 401


async def test_rights_count_for_passwords_too(own_nats: NatsServer, tmp_path: Path) -> None:
    async with (
        served(own_nats, tmp_path, **files(tmp_path, RULES[:3])) as (images, address),
        httpx.AsyncClient(base_url=f"http://{address}") as client,
    ):
        name = await fill(images, address)
        with pytest.raises(DavitError, match="denied"):
            await images.push(name, auth=auth("reader"))
        await images.import_tar(rootfs({"f": b"1"}), "own:1")
        catalogs = [(await client.get("/v2/_catalog", auth=(user, user))).json() for user in ("reader", "keeper")]
        assert [catalog["repositories"] for catalog in catalogs] == [["team/app"], ["own", "team/app"]]
        for user, expected in (("writer", 403), ("keeper", 202)):
            assert (await client.delete("/v2/team/app/manifests/1", auth=(user, user))).status_code == expected


async def test_skopeo_gets_along_with_tokens(own_nats: NatsServer, tmp_path: Path) -> None:
    if shutil.which("skopeo") is None:
        missing("skopeo")
    async with served(own_nats, tmp_path, **files(tmp_path, registry_auth="token")) as (images, address):
        where = f"docker://{await fill(images, address)}"
        await skopeo("copy", "--src-tls-verify=false", "--src-creds=reader:reader", where, f"dir:{tmp_path}/copy")
        back = ("--dest-tls-verify=false", "--dest-creds=writer:writer", f"dir:{tmp_path}/copy")
        await skopeo("copy", *back, f"docker://{address}/team/back:1")
        await images.pull(f"{address}/team/back:1", auth=auth("reader"))
        await skopeo("delete", "--tls-verify=false", "--creds=keeper:keeper", f"docker://{address}/team/back:1")
        with pytest.raises(DavitError, match=r"not found|unknown"):
            await images.pull(f"{address}/team/back:1", auth=auth("reader"))


async def test_nobody_is_let_in_without_a_name_where_passwords_are_asked_for(
    own_nats: NatsServer, tmp_path: Path
) -> None:
    with pytest.raises(InvalidArgument, match="@anonymous needs registry-auth token"):
        async with served(own_nats, tmp_path, **files(tmp_path)):
            pass
