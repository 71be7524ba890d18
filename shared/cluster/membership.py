"""What a member of a cluster keeps of it on its own disk: ``<data root>/cluster``, which only root can read.

| file | who has it |
| --- | --- |
| ``member.json`` | every member: see `Membership` |
| ``ca.pem``, ``node.pem``, ``node.key`` | every member: the CA's certificate, and the node's own with its key |
| ``ca.key`` | managers |
| ``nodes.json`` | managers: the nodes that the bus lets in, by id |
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import Literal

import orjson
from pydantic import BaseModel, Field, ValidationError

from shared.errors import Unavailable

DEFAULT_PORT = 2377
# Ports beside the one that members join at: of the bus, and of the store that layers come from.
BUS_OFFSET, LAYERS_OFFSET = 1, 2


class Membership(BaseModel):
    """Which cluster this machine is in, and as what.

    Attributes:
        cluster, id: Ids of the cluster and of this node in it.
        node: This node's name.
        advertise: The address at which the others reach this machine, without a port.
        port: Where members join, on managers; the bus and the store of layers listen on the two that follow.
        managers: ``address:port`` of the managers' doors.
    """

    cluster: str
    id: str
    node: str
    role: Literal["manager", "worker"]
    advertise: str
    listen: str = "0.0.0.0"
    port: int = DEFAULT_PORT
    managers: list[str] = Field(default_factory=list)

    @property
    def bus_port(self) -> int:
        return self.port + BUS_OFFSET

    @property
    def layers_port(self) -> int:
        return self.port + LAYERS_OFFSET

    @property
    def bus_url(self) -> str:
        """The managers' buses, as one URL for a client that may choose."""
        return ",".join(f"tls://{host}:{port + BUS_OFFSET}" for host, port in map(split_address, self.managers))


class AdmittedNode(BaseModel):
    """A node that the bus lets in."""

    node: str
    subject: str


class ClusterDirectory:
    """A member's files."""

    def __init__(self, data_root: Path) -> None:
        self.path = data_root / "cluster"
        self.member = self.path / "member.json"
        self.ca = self.path / "ca.pem"
        self.ca_key = self.path / "ca.key"
        self.certificate = self.path / "node.pem"
        self.key = self.path / "node.key"
        self.nodes = self.path / "nodes.json"

    def membership(self) -> Membership | None:
        """None outside of a cluster. Raises Unavailable: the file cannot be read."""
        try:
            return Membership.model_validate_json(self.member.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValidationError) as error:
            raise Unavailable(f"the cluster membership in {self.member} cannot be read: {error}") from error

    def admitted(self) -> dict[str, AdmittedNode]:
        try:
            found = orjson.loads(self.nodes.read_bytes())
        except FileNotFoundError:
            return {}
        return {node_id: AdmittedNode.model_validate(value) for node_id, value in found.items()}

    def admit(self, nodes: dict[str, AdmittedNode]) -> bool:
        """Write who is let in; whether that is news."""
        if nodes == self.admitted():
            return False
        self.write(self.nodes, orjson.dumps({key: value.model_dump() for key, value in nodes.items()}))
        return True

    def enter(self, membership: Membership, *, ca: bytes, certificate: bytes, key: bytes, ca_key: bytes = b"") -> None:
        """Become a member. The membership is written last: it stands for all the rest."""
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        if ca_key:
            self.write(self.ca_key, ca_key)
        self.write(self.ca, ca)
        self.write(self.key, key)
        self.write(self.certificate, certificate)
        self.write_membership(membership)

    def replace_certificate(self, membership: Membership, *, certificate: bytes, key: bytes) -> None:
        """A renewed certificate with its new key. What a crash leaves between the two writes is mended at the start."""
        self.write(self.path / "renewed.pem", certificate + key)
        self.take_renewed()
        self.write_membership(membership)

    def take_renewed(self) -> None:
        """Put certificate and key of a renewal, which lie in one file first, into their places."""
        pending = self.path / "renewed.pem"
        try:
            content = pending.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return
        certificate, separator, key = content.partition(b"-----BEGIN PRIVATE KEY-----")
        self.write(self.certificate, certificate)
        self.write(self.key, separator + key)
        pending.unlink()

    def write_membership(self, membership: Membership) -> None:
        self.write(self.member, membership.model_dump_json(indent=2).encode())

    def leave(self) -> None:
        """Forget the cluster. The membership goes first."""
        for file in (self.member, self.nodes, self.certificate, self.key, self.ca_key, self.ca):
            file.unlink(missing_ok=True)

    def write(self, path: Path, content: bytes) -> None:
        """Replace a file at once, on disk when this returns."""
        temporary = path.with_name(f".{path.name}.new")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        temporary.rename(path)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def client_context(self) -> ssl.SSLContext:
        """TLS as a member towards members. Raises Unavailable: the files cannot be used."""
        self.take_renewed()
        try:
            context = ssl.create_default_context(cafile=str(self.ca))
            context.load_cert_chain(str(self.certificate), str(self.key))
        except (OSError, ssl.SSLError) as error:
            raise Unavailable(f"the cluster's certificates in {self.path} cannot be used: {error}") from error
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context


def split_address(address: str, default_port: int = DEFAULT_PORT) -> tuple[str, int]:
    """``host:port``, ``[v6]:port`` or a bare host. Raises ValueError."""
    host, separator, port = address.rpartition(":") if ":" in address.rpartition("]")[2] else (address, "", "")
    return (host, int(port)) if separator else (address, default_port)
