"""Tokens, certificates and what a member keeps of both."""

from __future__ import annotations

import ssl
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.cluster import tokens
from shared.cluster.certificates import CertificateAuthority, NodeName, new_request, node_of, renew_in_s
from shared.cluster.membership import AdmittedNode, ClusterDirectory, Membership, split_address
from shared.errors import InvalidArgument, Unavailable


@pytest.fixture(scope="module")
def authority() -> CertificateAuthority:
    return CertificateAuthority.new("cluster1")


def issued(authority: CertificateAuthority, valid: timedelta = timedelta(days=90)) -> tuple[bytes, bytes]:
    key, csr = new_request()
    return authority.issue(csr, NodeName("node1", "worker", "cluster1"), ["10.0.0.2", "host.example"], valid=valid), key


def test_a_token_has_the_form_that_dockers_clients_know(authority: CertificateAuthority) -> None:
    token = tokens.new_token(authority.pem)
    prefix, version, digest, secret = str(token).split("-")
    assert (prefix, version, len(digest), len(secret)) == ("SWMTKN", "1", 50, 25)
    assert tokens.parse(str(token)) == token
    assert token.is_for(authority.pem)
    assert not token.is_for(CertificateAuthority.new("cluster1").pem)


@given(st.text(max_size=100))
def test_what_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid join token"):
        tokens.parse(text)


def test_a_certificate_names_its_node_and_is_trusted_by_the_cas_alone(
    authority: CertificateAuthority, tmp_path: Path
) -> None:
    certificate, key = issued(authority)
    assert node_of(certificate) == NodeName("node1", "worker", "cluster1")
    (tmp_path / "c").write_bytes(certificate + key)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "c")
    for ca, name, trusted in (
        (authority.pem, "10.0.0.2", True),
        (authority.pem, "10.0.0.3", False),
        (CertificateAuthority.new("cluster1").pem, "10.0.0.2", False),
    ):
        client = ssl.create_default_context(cadata=ca.decode())
        assert _shake_hands(client, server, name) is trusted


def _shake_hands(client: ssl.SSLContext, server: ssl.SSLContext, name: str) -> bool:
    a, b, c, d = (ssl.MemoryBIO() for _ in range(4))
    ours, theirs = client.wrap_bio(a, b, server_hostname=name), server.wrap_bio(c, d, server_side=True)
    for _ in range(6):
        for side in (ours, theirs):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                return False
            c.write(b.read())
            a.write(d.read())
    return ours.version() is not None


def test_a_certificate_is_renewed_when_a_third_of_its_life_is_left(authority: CertificateAuthority) -> None:
    day_s = 24 * 3600
    assert renew_in_s(issued(authority)[0]) == pytest.approx(60 * day_s, abs=day_s)
    assert renew_in_s(issued(authority, timedelta(minutes=10))[0]) < 0


def test_a_request_that_is_none_is_refused(authority: CertificateAuthority) -> None:
    with pytest.raises(InvalidArgument, match="signing request cannot be read"):
        authority.issue(b"none", NodeName("n", "worker", "c"), [])


MEMBERSHIP = Membership(cluster="c", id="i", node="n", role="worker", advertise="10.0.0.2", managers=["10.0.0.1:2377"])


def test_a_member_is_one_until_it_leaves(tmp_path: Path, authority: CertificateAuthority) -> None:
    directory = ClusterDirectory(tmp_path)
    assert directory.membership() is None
    certificate, key = issued(authority)
    directory.enter(MEMBERSHIP, ca=authority.pem, certificate=certificate, key=key)
    assert directory.membership() == MEMBERSHIP
    assert directory.key.stat().st_mode & 0o777 == 0o600
    assert directory.client_context().cert_store_stats()["x509_ca"] == 1
    directory.leave()
    assert directory.membership() is None
    assert not directory.key.exists()


def test_a_renewal_that_was_cut_off_is_finished_by_the_next_use(
    tmp_path: Path, authority: CertificateAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = ClusterDirectory(tmp_path)
    certificate, key = issued(authority)
    directory.enter(MEMBERSHIP, ca=authority.pem, certificate=certificate, key=key)
    newer, newer_key = issued(authority)
    write = directory.write

    def dies_at_the_key(path: Path, content: bytes) -> None:
        if path == directory.key:
            raise KeyboardInterrupt
        write(path, content)

    monkeypatch.setattr(directory, "write", dies_at_the_key)
    with pytest.raises(KeyboardInterrupt):
        directory.replace_certificate(MEMBERSHIP, certificate=newer, key=newer_key)
    monkeypatch.undo()
    again = ClusterDirectory(tmp_path)
    again.client_context()
    assert (again.certificate.read_bytes(), again.key.read_bytes()) == (newer, newer_key)


def test_who_is_let_in_is_news_only_once(tmp_path: Path) -> None:
    directory = ClusterDirectory(tmp_path)
    directory.path.mkdir()
    nodes = {"i": AdmittedNode(node="n", subject="CN=i")}
    assert directory.admit(nodes)
    assert not directory.admit(nodes)
    assert directory.admitted() == nodes


def test_a_membership_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    directory = ClusterDirectory(tmp_path)
    directory.path.mkdir()
    directory.member.write_text("{")
    with pytest.raises(Unavailable, match="cannot be read"):
        directory.membership()


@pytest.mark.parametrize(
    ("text", "address"),
    [("a", ("a", 2377)), ("a:1", ("a", 1)), ("[::1]:5", ("[::1]", 5)), ("10.0.0.1:2377", ("10.0.0.1", 2377))],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert split_address(text) == address
