"""Where registries are found, what they want to hear, and what is said about them."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from services.image.progress import bar, human_size
from services.image.registry.auth import Challenge
from services.image.registry.errors import failure_of
from services.image.registry.hosts import Hosts
from services.image.registry.queries import registry_domain
from services.image.server.app import byte_range
from services.image.server.repositories import page
from shared.errors import Forbidden, InvalidArgument, NotFound, Unauthorized, Unavailable


def urls(hosts: Hosts, domain: str, capability: str = "pull") -> list[str]:
    return [endpoint.api for endpoint in hosts.endpoints(domain, capability)]


def test_dockers_own_registry_and_its_mirrors() -> None:
    hosts = Hosts(mirrors=["https://mirror.example"], certificates=())
    assert urls(hosts, "docker.io") == ["https://mirror.example/v2", "https://registry-1.docker.io/v2"]
    assert urls(hosts, "docker.io", "push") == ["https://registry-1.docker.io/v2"]
    assert urls(hosts, "ghcr.io") == ["https://ghcr.io/v2"]


@pytest.mark.parametrize(
    ("domain", "insecure"),
    [
        ("127.0.0.1:5000", True),
        ("127.9.9.9", True),
        ("[::1]:5000", True),
        ("localhost:5000", True),
        ("10.1.2.3:80", True),
        ("10.2.2.3:80", False),
        ("plain.example", True),
        ("with.port:5000", True),
        ("with.port", False),
        ("ghcr.io", False),
    ],
)
def test_who_may_be_asked_without_tls(domain: str, insecure: bool) -> None:
    hosts = Hosts(insecure=["10.1.0.0/16", "plain.example", "with.port:5000"], certificates=())
    assert hosts.is_insecure(domain) is insecure
    found = hosts.endpoints(domain, "pull")
    assert [endpoint.verify for endpoint in found] == ([False, True] if insecure else [True])
    assert [endpoint.url for endpoint in found][1:] == ([f"http://{domain}"] if insecure else [])


def test_hosts_toml(tmp_path: Path) -> None:
    directory = tmp_path / "reg.example"
    directory.mkdir()
    file = directory / "hosts.toml"
    file.write_text(
        'server = "https://real.example"\n'
        '[host."https://mirror.example/sub/v2"]\ncapabilities = ["pull"]\nskip_verify = true\n'
        'ca = "ca.pem"\nclient = [["c.pem", "k.pem"]]\n'
        '[host."https://mirror.example/sub/v2".header]\nX-Test = "1"\n'
        '[host."http://bare.example/prefix"]\noverride_path = true\n'
    )
    hosts = Hosts(certificates=(tmp_path,))
    mirror, bare, real = hosts.endpoints("reg.example", "pull")
    assert (mirror.api, mirror.verify, mirror.headers) == ("https://mirror.example/sub/v2", False, {"X-Test": "1"})
    assert mirror.authorities == (directory / "ca.pem",)
    assert mirror.clients == ((directory / "c.pem", directory / "k.pem"),)
    assert (bare.api, real.api) == ("http://bare.example/prefix", "https://real.example/v2")
    assert urls(hosts, "reg.example", "push") == ["http://bare.example/prefix", "https://real.example/v2"]
    file.write_text('[host."https://x"]\nsurprise = 1\n')
    with pytest.raises(InvalidArgument, match="unknown key surprise"):
        hosts.endpoints("reg.example", "pull")


def test_a_client_certificate_needs_its_key(tmp_path: Path) -> None:
    (tmp_path / "reg.example").mkdir()
    (tmp_path / "reg.example/client.cert").touch()
    with pytest.raises(InvalidArgument, match=r"missing key client\.key"):
        Hosts(certificates=(tmp_path,)).endpoints("reg.example", "pull")


def test_challenges() -> None:
    [challenge] = Challenge.parse_all(
        ['Bearer realm="https://auth.example/t",service="s",scope="repository:a/b:pull,push"']
    )
    assert challenge.scheme == "bearer"
    assert challenge.parameters == {
        "realm": "https://auth.example/t",
        "service": "s",
        "scope": "repository:a/b:pull,push",
    }


@pytest.mark.parametrize(
    ("status", "body", "kind", "text"),
    [
        (
            404,
            {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "not here"}]},
            NotFound,
            "manifest unknown: not here",
        ),
        (401, None, Unauthorized, "unauthorized: authentication required"),
        (403, None, Forbidden, "denied: requested access to the resource is denied"),
        (429, None, Unavailable, "toomanyrequests: the registry limits the rate of requests"),
        (500, None, Unavailable, "it: received unexpected HTTP status: 500 Internal Server Error"),
    ],
)
def test_answers_become_errors(status: int, body: object, kind: type[Exception], text: str) -> None:
    response = httpx.Response(status, json=body) if body else httpx.Response(status)
    error = failure_of(response, "it")
    assert type(error) is kind
    assert str(error) == text


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", None),
        ("bytes=2-4", (2, 5)),
        ("bytes=2-", (2, 10)),
        ("bytes=-3", (7, 10)),
        ("bytes=2-99", (2, 10)),
        ("x", None),
        ("bytes=0-", (0, 10)),
    ],
)
def test_ranges(header: str, expected: tuple[int, int] | None) -> None:
    assert byte_range(header, 10) == expected


def test_a_range_outside_is_refused() -> None:
    with pytest.raises(InvalidArgument):
        byte_range("bytes=10-", 10)


def test_pages() -> None:
    assert page(["a", "b", "c"], "", 2) == (["a", "b"], True)
    assert page(["a", "b", "c"], "b", 2) == (["c"], False)
    assert page(["a"], "", 0) == ([], False)
    assert page(["a"], "", None) == (["a"], False)


@pytest.mark.parametrize(
    ("address", "domain"),
    [
        ("https://index.docker.io/v1/", "docker.io"),
        ("", "docker.io"),
        ("reg.example:5000", "reg.example:5000"),
        ("https://reg.example/v2/", "reg.example"),
    ],
)
def test_what_a_login_is_for(address: str, domain: str) -> None:
    assert registry_domain(address) == domain


def test_sizes_and_bars_look_like_dockers() -> None:
    assert [human_size(size) for size in (0, 999, 10240, 1234567, 128_000_000)] == [
        "0B",
        "999B",
        "10.24kB",
        "1.235MB",
        "128MB",
    ]
    assert bar(10240, 10240) == "[" + "=" * 50 + ">]  10.24kB/10.24kB"
    assert bar(0, 100) == "[>" + " " * 50 + "]       0B/100B"
    assert bar(5, 0) == "      5B"
