"""The cluster's own CA, and the certificates that its members know each other by.

A node's certificate names it as Swarm's do: common name the node's id, organizational unit its role, organization the
cluster's id. The bus maps that subject to what the node may (`supervisor/gate.py`).

`cryptography` is imported here alone, and only by a process that makes or reads certificates.

Source: RFC 5280; SwarmKit, subjects of node certificates.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from shared.errors import InvalidArgument

Role = Literal["manager", "worker"]
CA_VALID = timedelta(days=20 * 365)
NODE_VALID = timedelta(days=90)
# Clocks differ; a certificate shall be good on a machine that is behind.
_BACKDATED = timedelta(hours=1)
# A certificate is renewed when a third of its life is left.
_RENEWED_AT = 2 / 3


@dataclass(frozen=True, slots=True)
class NodeName:
    """What a certificate says of a node."""

    id: str
    role: Role
    cluster: str

    @property
    def unit(self) -> str:
        return f"swarm-{self.role}"

    @property
    def subject(self) -> str:
        """As the bus spells it: RFC 4514, the last attribute first."""
        return f"CN={self.id},OU={self.unit},O={self.cluster}"


class CertificateAuthority:
    """A cluster's CA. Both halves are PEM; the key is P-256, PKCS#8."""

    def __init__(self, certificate: bytes, key: bytes) -> None:
        self.pem = certificate
        self.key_pem = key
        self._certificate = x509.load_pem_x509_certificate(certificate)
        private = serialization.load_pem_private_key(key, None)
        assert isinstance(private, ec.EllipticCurvePrivateKey)
        self._key = private

    @classmethod
    def new(cls, cluster: str) -> CertificateAuthority:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, cluster),
                          x509.NameAttribute(NameOID.COMMON_NAME, "swarm-ca")])  # fmt: skip
        usage = x509.KeyUsage(
            digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
            key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
        )  # fmt: skip
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _BACKDATED)
            .not_valid_after(now + CA_VALID)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(certificate.public_bytes(serialization.Encoding.PEM), key_bytes(key))

    def issue(
        self, request: bytes, name: NodeName, addresses: Iterable[str], *, valid: timedelta = NODE_VALID
    ) -> bytes:
        """A node's certificate, PEM.

        Args:
            request: A certificate signing request, PEM; its key is taken, its names are not.
            addresses: IP addresses and host names under which the node is reached as a server.

        Raises:
            InvalidArgument: The request is none, or not signed by its own key.
        """
        try:
            asked = x509.load_pem_x509_csr(request)
        except ValueError as error:
            raise InvalidArgument(f"the certificate signing request cannot be read: {error}", field="csr") from error
        if not asked.is_signature_valid:
            raise InvalidArgument("the certificate signing request is not signed by its own key", field="csr")
        subject = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, name.cluster),
                             x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, name.unit),
                             x509.NameAttribute(NameOID.COMMON_NAME, name.id)])  # fmt: skip
        uses = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._certificate.subject)
            .public_key(asked.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _BACKDATED)
            .not_valid_after(now + valid)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
            .add_extension(x509.SubjectAlternativeName(_names(name.id, addresses)), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
        )
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def new_request() -> tuple[bytes, bytes]:
    """A new key and a signing request for it, both PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "node")])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return key_bytes(key), request.public_bytes(serialization.Encoding.PEM)


def key_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def node_of(certificate: bytes) -> NodeName:
    """Whom a node's certificate names. Raises InvalidArgument: it is not a node's."""
    subject = x509.load_pem_x509_certificate(certificate).subject

    def one(oid: x509.ObjectIdentifier) -> str:
        found = subject.get_attributes_for_oid(oid)
        return str(found[0].value) if found else ""

    roles: dict[str, Role] = {"swarm-manager": "manager", "swarm-worker": "worker"}
    role = roles.get(one(NameOID.ORGANIZATIONAL_UNIT_NAME))
    if role is None:
        raise InvalidArgument("the certificate is not a node's")
    return NodeName(one(NameOID.COMMON_NAME), role, one(NameOID.ORGANIZATION_NAME))


def renew_in_s(certificate: bytes) -> float:
    """Seconds until a certificate is to be renewed; negative when that is overdue."""
    read = x509.load_pem_x509_certificate(certificate)
    begin, end = read.not_valid_before_utc, read.not_valid_after_utc
    return (begin + (end - begin) * _RENEWED_AT - datetime.now(UTC)).total_seconds()


def issuer_facts(ca_pem: bytes) -> tuple[bytes, bytes]:
    """Subject and public key of a CA's certificate, DER: what Docker shows as TLSInfo."""
    read = x509.load_pem_x509_certificate(ca_pem)
    public = read.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return read.subject.public_bytes(), public


def _names(node_id: str, addresses: Iterable[str]) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = [x509.DNSName(node_id)]
    for address in dict.fromkeys(addresses):
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(address)))
        except ValueError:
            names.append(x509.DNSName(address))
    return names
