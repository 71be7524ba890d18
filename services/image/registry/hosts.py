"""Where a registry is reached: mirrors, certificates, and which ones may be asked without TLS.

For a registry's domain, in this order: ``<certs.d>/<domain>/hosts.toml`` as containerd reads it; the key
``registry-mirrors`` (for Docker's own registry); the registry itself. ``<certs.d>/<domain>/*.crt`` are authorities to
trust, ``*.cert`` with ``*.key`` client certificates, as Docker reads them.

Source: containerd docs/hosts.md; Docker Engine, "Verify repository client with certificates", "Test an insecure
registry".
"""

from __future__ import annotations

import ipaddress
import ssl
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from shared.docker.references import DEFAULT_DOMAIN
from shared.errors import InvalidArgument

DOCKER_REGISTRY = "registry-1.docker.io"
CERTIFICATES = (Path("/etc/davit/certs.d"), Path("/etc/docker/certs.d"))
CAPABILITIES = frozenset(("pull", "resolve", "push"))
LOOPBACK = ("127.0.0.0/8", "::1/128")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One way to reach a registry.

    Attributes:
        url: With scheme, without the API's ``/v2``; a path in it comes before the API's.
        verify: Whether its certificate must be valid.
        capabilities: What it may be used for: pull, resolve, push.
        authorities: Files with certificates to trust besides the system's.
        clients: Certificate and key files (the key None when it is in the same file).
        is_mirror: Whether the registry itself is somewhere else: credentials are not for it.
    """

    url: str
    verify: bool = True
    capabilities: frozenset[str] = CAPABILITIES
    authorities: tuple[Path, ...] = ()
    clients: tuple[tuple[Path, Path | None], ...] = ()
    headers: dict[str, str] = field(default_factory=dict)
    override_path: bool = False
    is_mirror: bool = False

    @property
    def api(self) -> str:
        base = self.url.rstrip("/")
        return base if self.override_path else f"{base}/v2"

    def context(self) -> ssl.SSLContext | bool:
        """Raises InvalidArgument when a certificate file cannot be used."""
        if not self.url.startswith("https:"):
            return False
        context = ssl.create_default_context()
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        try:
            for authority in self.authorities:
                context.load_verify_locations(authority)
            for certificate, key in self.clients:
                context.load_cert_chain(certificate, key)
        except (OSError, ssl.SSLError) as error:
            raise InvalidArgument(f"a certificate for {self.url} cannot be used: {error}") from error
        return context


class Hosts:
    """Endpoints by registry.

    Args:
        mirrors: Addresses of mirrors of Docker's own registry.
        insecure: Domains and networks that may be asked without TLS, or with certificates that are not valid.
        certificates: Directories with one directory per registry, the first that has one counts.
    """

    def __init__(
        self, mirrors: Sequence[str] = (), insecure: Sequence[str] = (), certificates: Sequence[Path] = CERTIFICATES
    ) -> None:
        self._mirrors = mirrors
        self._insecure_hosts = {item for item in insecure if _network(item) is None}
        self._insecure_networks = [net for item in (*insecure, *LOOPBACK) if (net := _network(item)) is not None]
        self._certificates = certificates

    def endpoints(self, domain: str, capability: str) -> list[Endpoint]:
        """Where to ask, in order. Raises InvalidArgument when a configuration file is wrong."""
        directory = self._directory(domain)
        own = self._own(domain, directory)
        file = directory / "hosts.toml" if directory else None
        if file is not None and file.is_file():
            found = _from_toml(file, own)
        elif domain == DEFAULT_DOMAIN:
            found = [
                Endpoint(url, is_mirror=True, capabilities=frozenset(("pull", "resolve"))) for url in self._mirrors
            ]
            found += own
        else:
            found = own
        return [endpoint for endpoint in found if capability in endpoint.capabilities]

    def is_insecure(self, domain: str) -> bool:
        """Whether a registry may be asked without TLS."""
        host = _host(domain)
        if domain in self._insecure_hosts or host in self._insecure_hosts or host == "localhost":
            return True
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        return any(address in network for network in self._insecure_networks if network.version == address.version)

    def _own(self, domain: str, directory: Path | None) -> list[Endpoint]:
        host = DOCKER_REGISTRY if domain == DEFAULT_DOMAIN else domain
        authorities = tuple(sorted(directory.glob("*.crt"))) if directory else ()
        clients = _client_certificates(directory) if directory else ()
        insecure = self.is_insecure(domain)
        secure = Endpoint(f"https://{host}", verify=not insecure, authorities=authorities, clients=clients)
        return [secure, Endpoint(f"http://{host}")] if insecure else [secure]

    def _directory(self, domain: str) -> Path | None:
        for base in self._certificates:
            for name in (domain, domain.replace(":", "_") + "_", "_default"):
                if (base / name).is_dir():
                    return base / name
        return None


def _host(domain: str) -> str:
    return urlsplit(f"//{domain}").hostname or domain


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text, strict=False) if "/" in text else None
    except ValueError:
        return None


def _client_certificates(directory: Path) -> tuple[tuple[Path, Path | None], ...]:
    found = []
    for certificate in sorted(directory.glob("*.cert")):
        key = certificate.with_suffix(".key")
        if not key.is_file():
            raise InvalidArgument(f"missing key {key.name} for client certificate {certificate.name}")
        found.append((certificate, key))
    return tuple(found)


def _from_toml(file: Path, own: list[Endpoint]) -> list[Endpoint]:
    try:
        config = tomllib.loads(file.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise InvalidArgument(f"{file} cannot be read: {error}") from error
    hosts = config.get("host", {})
    if not isinstance(hosts, dict):
        raise InvalidArgument(f"{file}: host is no table")
    found = [_endpoint(file, url, values) for url, values in hosts.items()]
    server = config.get("server")
    if server is not None:
        return [
            *found,
            _endpoint(file, str(server), {key: config[key] for key in config if key not in ("host", "server")}),
        ]
    return [*found, *own]


def _endpoint(file: Path, url: str, values: dict[str, Any]) -> Endpoint:
    known = {"capabilities", "ca", "client", "skip_verify", "header", "override_path", "dial_timeout"}
    for key in values:
        if key not in known:
            raise InvalidArgument(f"{file}: unknown key {key} for {url}")
    address = url if "://" in url else f"https://{url}"
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidArgument(f"{file}: {url} is no address of a registry")
    headers = {
        name: value if isinstance(value, str) else ", ".join(value) for name, value in values.get("header", {}).items()
    }
    override = bool(values.get("override_path", False))
    if not override and parts.path.rstrip("/").endswith("/v2"):
        address = address.rstrip("/").removesuffix("/v2")
    return Endpoint(
        address,
        verify=not values.get("skip_verify", False),
        capabilities=frozenset(values.get("capabilities", CAPABILITIES)),
        authorities=tuple(_relative(file, item) for item in _listed(values.get("ca", []))),
        clients=tuple(_pair(file, item) for item in _pairs(values.get("client", []))),
        headers=headers,
        override_path=override,
        is_mirror=True,
    )


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _pairs(value: Any) -> list[Any]:
    """``"file"``, ``["file", …]`` or ``[["certificate", "key"], …]``."""
    return _listed(value)


def _pair(file: Path, value: Any) -> tuple[Path, Path | None]:
    if isinstance(value, str):
        return _relative(file, value), None
    certificate, key = value[0], value[1] if len(value) > 1 else ""
    return _relative(file, certificate), _relative(file, key) if key else None


def _relative(file: Path, name: str) -> Path:
    return file.parent / name
