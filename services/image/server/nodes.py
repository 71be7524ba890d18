"""How nodes fetch layers: where the registry is, and a token that lets them read.

The token is for nodes only, which get it on the bus; users of the registry have passwords (`users`). It needs no
record: any copy of the service that shares the store checks it with the store's key.
"""

from __future__ import annotations

import hashlib
import hmac
import socket
import ssl
import time
from pathlib import Path
from urllib.parse import urlsplit

from services.image.catalog.depot import Depot
from services.image.server.keys import stored_key
from shared.config import EngineConfig
from shared.contracts.images import LayerChains, LayerSource, LayerSources
from shared.errors import Unavailable

# The repository that a node asks; the token lets it read there whatever the store has.
REPOSITORY = "davit/layers"
TOKEN_S = 2 * 3600
_ANY = ("", "0.0.0.0", "::")  # compared with, not listened on


class NodeTokens:
    """Makes and checks tokens: ``<expiry>.<HMAC-SHA256 of it>``."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def of(cls, directory: Path) -> NodeTokens:
        """With the key of a store. Raises Unavailable."""
        return cls(stored_key(directory / "nodes.key"))

    def make(self) -> str:
        expiry = str(int(time.time()) + TOKEN_S)
        return f"{expiry}.{self._signature(expiry)}"

    def allows(self, header: str) -> bool:
        """Whether an ``Authorization`` header has a token that is valid now."""
        scheme, _, token = header.partition(" ")
        expiry, _, signature = token.strip().partition(".")
        if scheme.lower() != "bearer" or not expiry.isdigit():
            return False
        return hmac.compare_digest(signature.encode(), self._signature(expiry).encode()) and int(expiry) > time.time()

    def _signature(self, expiry: str) -> str:
        return hmac.new(self._key, expiry.encode(), hashlib.sha256).hexdigest()


class NodeDoor:
    """Serves LAYER_SOURCES.

    Args:
        tokens: None when no registry is served.
    """

    def __init__(self, depot: Depot, config: EngineConfig, tokens: NodeTokens | None) -> None:
        self._depot = depot
        self._tokens = tokens
        self._url = registry_url(config) if tokens is not None else ""
        self._fingerprint = fingerprint(config.registry_tls_cert) if config.registry_tls_cert else ""

    def serve_at(self, url: str, shown: str, tokens: NodeTokens) -> None:
        """From now on nodes find the store here. shown: the fingerprint of its certificate."""
        self._url, self._fingerprint, self._tokens = url, shown, tokens

    async def sources(self, request: LayerChains) -> LayerSources:
        """What the layers are unpacked from, as far as they are known."""
        async with self._depot.catalog.reading() as reader:
            found = await reader.layers(request.chains)
        layers = [
            LayerSource(chain_id=one.chain_id, diff_id=one.diff_id, blob=one.blob, blob_bytes=one.blob_bytes)
            for one in found.values()
        ]
        token = self._tokens.make() if self._tokens is not None else ""
        return LayerSources(layers=layers, url=self._url, token=token, fingerprint=self._fingerprint)


def registry_url(config: EngineConfig) -> str:
    """Where nodes reach the registry, down to its blobs."""
    scheme = "https" if config.registry_tls_cert else "http"
    address = config.registry_advertise
    if not address:
        host, _, port = config.registry_listen.rpartition(":")
        host = host.strip("[]")
        host = own_address(config.nats_url) if host in _ANY else host
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return f"{scheme}://{address}/v2/{REPOSITORY}/blobs/"


def own_address(bus_url: str) -> str:
    """This machine's address on the way to the bus, where other nodes are too; the loopback one if it is here."""
    bus = urlsplit(bus_url.partition(",")[0])
    host, port = bus.hostname or "127.0.0.1", bus.port or 4222
    try:
        family, _, _, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(target)
            return str(probe.getsockname()[0])
    except OSError:
        return "127.0.0.1"


def fingerprint(certificate: str) -> str:
    """SHA-256 of the first certificate of a PEM file. Raises Unavailable."""
    try:
        text = Path(certificate).read_text()
        first = text[text.index("-----BEGIN CERTIFICATE") : text.index("-----END CERTIFICATE-----") + 25]
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(first)).hexdigest()
    except (OSError, ValueError) as error:
        raise Unavailable(f"the certificate {certificate} cannot be read: {error}") from error
