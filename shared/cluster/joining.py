"""A machine joins: it asks a manager's door for a certificate, and believes only the CA that its token names."""

from __future__ import annotations

import http.client
import json
import ssl
from typing import Any

from shared.cluster.certificates import new_request
from shared.cluster.membership import ClusterDirectory, Membership, split_address
from shared.cluster.tokens import JoinToken
from shared.errors import Conflict, DavitError, Forbidden, InvalidArgument, Unavailable

TIMEOUT_S = 20.0
_BY_STATUS: dict[int, type[DavitError]] = {400: InvalidArgument, 403: Forbidden, 409: Conflict}


def join(directory: ClusterDirectory, address: str, token: JoinToken, *, node: str, advertise: str = "") -> Membership:
    """Become a member; what came of it lies in the directory.

    Args:
        address: ``host`` or ``host:port`` of a manager's door.
        node: The name that this machine goes by.
        advertise: The address at which others reach this machine; empty: the one the manager sees.

    Raises:
        Unavailable: The manager cannot be reached.
        Forbidden: It is not of the token's cluster, or does not take the token.
        Conflict: The name is taken.
        InvalidArgument: The address is none.
    """
    try:
        host, port = split_address(address)
    except ValueError as error:
        raise InvalidArgument(f"{address} is no address of a manager: HOST or HOST:PORT", field="address") from error
    host = host.strip("[]")
    unverified = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
    ca = _ask(host, port, unverified, "GET", "/ca")
    if not token.is_for(ca):
        raise Forbidden(
            f"remote CA does not match fingerprint: the cluster at {host}:{port} is not the one that this token is for",
            field="JoinToken",
        )
    verified = ssl.create_default_context(cadata=ca.decode())
    key, csr = new_request()
    request: dict[str, Any] = {"secret": token.secret, "csr": csr.decode(), "node": node}
    if advertise:
        request["addresses"] = [advertise]
    joined = json.loads(_ask(host, port, verified, "POST", "/join", json.dumps(request).encode()))
    membership = Membership.model_validate(joined["membership"])
    directory.enter(membership, ca=ca, certificate=joined["certificate"].encode(), key=key)
    return membership


def _ask(host: str, port: int, context: ssl.SSLContext, method: str, path: str, body: bytes | None = None) -> bytes:
    connection = http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=context)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
        response = connection.getresponse()
        content = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable(f"the manager at {host}:{port} cannot be reached: {error}") from error
    finally:
        connection.close()
    if response.status != 200:
        raise _BY_STATUS.get(response.status, Unavailable)(
            _message(content) or f"the manager answers {response.status}"
        )
    return content


def _message(content: bytes) -> str:
    try:
        return str(json.loads(content)["message"])
    except (ValueError, KeyError, TypeError):
        return content.decode(errors="replace")[:500]
