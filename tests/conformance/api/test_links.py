"""Links on the default bridge: names, environments, removal, refusals; compared."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from .conftest import Asked, Question

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

NAMES = ("lweb", "ldb", "lother")
EXPOSED = ("--expose", "5432", "--expose", "80-83", "--expose", "53/udp")


@pytest.fixture(autouse=True)
def nothing_left(davit: Asked, reference: Asked) -> Iterator[None]:
    yield
    for asked in (davit, reference):
        asked.engine.docker("rm", "-f", *NAMES, check=False)


def run(asked: Asked, name: str, *options: str, check: bool = True) -> Any:
    script = 'trap "exit 0" TERM; while :; do sleep 1000 & wait $!; done'
    words = ("run", "-d", "--name", name, *options, "busybox", "sh", "-c", script)
    return asked.engine.docker(*words, check=check)


def pair(asked: Asked) -> None:
    run(asked, "ldb", *EXPOSED, "-e", "A=1", "-e", "DB_X=y=z")
    run(asked, "lweb", "--link", "ldb:alias-one", "--link", "ldb")


def ask(asked: Asked, method: str, path: str, body: Any = None) -> Any:
    answer = asked.ask(Question(method, path, None if body is None else json.dumps(body)))
    return answer.status, answer.json if answer.body else None


def plain(text: str) -> str:
    """Without what differs between two engines: addresses and ids."""
    return re.sub(r"\b[0-9a-f]{12,64}\b", "ID", re.sub(r"172\.\d+\.\d+\.\d+", "ADDRESS", text))


def shown(asked: Asked) -> Any:
    pair(asked)
    inspected = ask(asked, "GET", "/containers/lweb/json")[1]
    listed = {
        tuple(sorted(one["Names"])) for one in ask(asked, "GET", "/containers/json")[1] if one["Names"][0][1:] in NAMES
    }
    named = asked.engine.docker("ps", "-q", "--filter", "name=lweb/alias-one").stdout.split()
    links = inspected["HostConfig"]["Links"]
    environment = asked.engine.docker("exec", "lweb", "env").stdout.splitlines()
    hosts = asked.engine.docker("exec", "lweb", "grep", "-c", "ldb", "/etc/hosts").stdout
    return (
        sorted(links),
        inspected["NetworkSettings"]["Networks"]["bridge"]["Links"],
        sorted(listed),
        len(named),
        sorted(plain(one) for one in environment if one.startswith(("ALIAS", "LDB"))),
        hosts,
    )


def test_what_is_shown(davit: Asked, reference: Asked) -> None:
    ours = shown(davit)
    assert ours == shown(reference)
    assert ours[0] == ["/ldb:/lweb/alias-one", "/ldb:/lweb/ldb"]
    assert "ALIAS_ONE_PORT_80_TCP_END=tcp://ADDRESS:83" in ours[4]


def named(asked: Asked) -> Any:
    pair(asked)
    seen: list[Any] = []
    for method, path in (
        ("GET", "/containers/lweb/alias-one/json"),
        ("GET", "/containers/lweb/nosuch/json"),
        ("GET", "/containers/lweb/ldb/top"),
        ("GET", "/containers/lweb/nosuch"),
        ("POST", "/containers/lweb/alias-one/restart?t=5"),
        ("DELETE", "/containers/lweb/alias-one?link=1"),
        ("DELETE", "/containers/lweb/alias-one?link=1"),
    ):
        status, body = ask(asked, method, path)
        seen.append((path, status, body.get("Name", body.get("message")) if isinstance(body, dict) else None))
    seen.append(ask(asked, "DELETE", "/containers/lweb?link=1")[1]["message"])
    seen.append(ask(asked, "GET", "/containers/lweb/json")[1]["HostConfig"]["Links"])
    asked.engine.docker("restart", "-t", "0", "lweb")
    seen.append("ALIAS" in asked.engine.docker("exec", "lweb", "env").stdout)
    asked.engine.docker("rename", "ldb", "lother")
    seen.append(ask(asked, "GET", "/containers/lweb/json")[1]["HostConfig"]["Links"])
    return seen


def test_a_link_is_a_name(davit: Asked, reference: Asked) -> None:
    assert named(davit) == named(reference)


def refused(asked: Asked) -> Any:
    run(asked, "ldb")
    run(asked, "lother", "--network", "net")
    seen = [run(asked, "lweb", "--link", "lother:x", check=False).stderr.splitlines()[0]]
    asked.engine.docker("rm", "-f", "lweb", check=False)
    asked.engine.docker("stop", "-t", "0", "ldb")
    seen.append(run(asked, "lweb", "--link", "ldb:x", check=False).stderr.splitlines()[0])
    asked.engine.docker("rm", "-f", "lweb", check=False)
    seen.append(run(asked, "lweb", "--link", "nosuch:x", check=False).stderr.splitlines()[0])
    asked.engine.docker("start", "ldb")
    # what inspect shows can be given again, as those do who make a container anew
    run(asked, "lweb", "--link", "ldb:x")
    links = ask(asked, "GET", "/containers/lweb/json")[1]["HostConfig"]["Links"]
    asked.engine.docker("rm", "-f", "lweb")
    body = {"Image": "busybox", "Cmd": ["true"], "HostConfig": {"Links": links}}
    seen.append(ask(asked, "POST", "/containers/create?name=lweb", body)[0])
    seen.append(ask(asked, "GET", "/containers/lweb/json")[1]["HostConfig"]["Links"])
    asked.engine.docker("rm", "-f", "lweb")
    # on a network of one's own it is the endpoint's
    run(asked, "lweb", "--network", "net", "--link", "lother:x")
    inspected = ask(asked, "GET", "/containers/lweb/json")[1]
    seen += [inspected["HostConfig"]["Links"], inspected["NetworkSettings"]["Networks"]["net"]["Links"]]
    seen.append([plain(one) for one in inspected["NetworkSettings"]["Networks"]["net"]["Aliases"]])
    return seen


def test_what_cannot_be_linked_and_what_can(davit: Asked, reference: Asked) -> None:
    assert refused(davit) == refused(reference)
