"""A registry's answers and failures as the engine's errors, in Docker's words.

Source: distribution spec, "Error Codes".
"""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import Iterator

import httpx

from shared.errors import (
    DavitError,
    Forbidden,
    Internal,
    InvalidArgument,
    NotFound,
    Unauthorized,
    Unavailable,
    Unreachable,
)

_BY_STATUS: dict[int, type[DavitError]] = {
    400: InvalidArgument,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    405: Unavailable,
    413: InvalidArgument,
    416: InvalidArgument,
}

MAX_REFUSAL_BYTES = 1024
_OF_SOURCES: dict[int, type[DavitError]] = {400: InvalidArgument, 401: Unauthorized, 403: Forbidden, 404: NotFound}
# Answers to HEAD have no body that would say more.
_WITHOUT_BODY = {
    401: "unauthorized: authentication required",
    403: "denied: requested access to the resource is denied",
}


def details(response: httpx.Response) -> list[tuple[str, str]]:
    """Codes and messages of an error answer whose body was read."""
    try:
        errors = response.json().get("errors") or []
        return [(str(item.get("code", "")), str(item.get("message") or "")) for item in errors]
    except (ValueError, AttributeError, httpx.ResponseNotRead):
        return []


def failure_of(response: httpx.Response, what: str) -> DavitError:
    """The error that an answer is.

    Args:
        what: What was asked, for the text.
    """
    told = details(response)
    text = "; ".join(f"{code.lower().replace('_', ' ')}: {message}" for code, message in told)
    if response.status_code == 429:
        return Unavailable(f"toomanyrequests: {text or 'the registry limits the rate of requests'}", status=429)
    kind = _BY_STATUS.get(response.status_code, Unavailable)
    if not text:
        text = _WITHOUT_BODY.get(response.status_code, "")
    if not text:
        text = f"{what}: received unexpected HTTP status: {response.status_code} {response.reason_phrase}"
    return kind(text, status=response.status_code)


async def source_failure(response: httpx.Response, url: str) -> DavitError:
    """What a server said instead of giving a file; the beginning of it, since it may be a page."""
    body = b""
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > MAX_REFUSAL_BYTES:
            break
    said = body[:MAX_REFUSAL_BYTES].decode("utf-8", "replace").strip()
    text = f"failed to GET {url} with status {response.status_code} {response.reason_phrase}"
    kind = Unreachable if response.status_code >= 500 else _OF_SOURCES.get(response.status_code, Internal)
    return kind(f"{text}: {said}" if said else text)


def check_url(url: str) -> None:
    """Raises InvalidArgument, in Docker's words, for characters that no address has."""
    if any(ord(one) < 0x20 or ord(one) == 0x7F for one in url):
        raise InvalidArgument(f"parse {json.dumps(url)}: net/url: invalid control character in URL", field="fromSrc")


def connection_failure(error: httpx.HTTPError, url: str) -> DavitError:
    """What kept a request from being answered, said as Docker says it."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, ssl.SSLError):
            return Unreachable(f'Get "{url}": tls: {cause.reason or cause}', tls=True)
    text = str(error) or type(error).__name__
    if isinstance(error, httpx.ConnectError):
        host = httpx.URL(url).host
        if "Name or service not known" in text or "name resolution" in text or "No address" in text:
            return Unreachable(f'Get "{url}": dial tcp: lookup {host}: no such host')
        text = next((os.strerror(number).lower() for item in causes if (number := _errno(item))), text)
        return Unreachable(f'Get "{url}": dial tcp {httpx.URL(url).netloc.decode()}: connect: {text}')
    if isinstance(error, httpx.TimeoutException):
        return Unreachable(f'Get "{url}": net/http: request canceled (Client.Timeout exceeded): {text}')
    return Unreachable(f'Get "{url}": {text}')


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and all that led to it."""
    current: BaseException | None = error
    while current is not None:
        yield current
        if isinstance(current, BaseExceptionGroup):
            for inner in current.exceptions:
                yield from _causes(inner)
        current = current.__cause__ or current.__context__


def _errno(error: BaseException) -> int:
    return error.errno or 0 if isinstance(error, OSError) else 0
