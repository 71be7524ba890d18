"""Records to a URL: in batches, signed, as often as it takes.

Before the first batch the receiver is asked whether it wants them, so that nobody can have them sent to someone else.

Source: CloudEvents 1.0, "HTTP 1.1 Web Hooks", sections 3 (answers) and 4 (OPTIONS); Standard Webhooks 1.0.0.
"""

from __future__ import annotations

import email.utils
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import httpx
from standardwebhooks.webhooks import EmptyWebhookSecretError, Webhook

from services.audit.sinks.delivery import NotDelivered
from services.audit.sinks.formats import Format
from shared.errors import InvalidArgument

TIMEOUT_S = 20.0
AGREED_FOR_S = 24 * 3600.0
LONGEST_REQUESTED_WAIT_S = 24 * 3600.0


class WebhookDelivery:
    """Posts batches to one URL.

    Args:
        secret: As Standard Webhooks writes it (``whsec_…``), or its base64; empty for unsigned ones.
        ca_file: Who signed the receiver's certificate; empty for the system's authorities.
    """

    def __init__(self, url: str, form: Format, *, origin: str, secret: str = "", ca_file: str = "") -> None:
        self._url = url
        self._format = form
        self._origin = origin
        self._signer = Webhook(secret) if secret else None
        self._client = httpx.AsyncClient(timeout=TIMEOUT_S, verify=_verify(ca_file), trust_env=False)
        self._agreed_until = 0.0
        self._pause_s = 0.0
        self._not_before = 0.0

    async def send(self, first: int, lines: Sequence[bytes]) -> None:
        try:
            await self._agree()
            wait_s = self._not_before - time.monotonic()
            if wait_s > 0:
                raise NotDelivered("the receiver takes no more for now", after_s=wait_s)
            body = self._format.batch(lines)
            answer = await self._client.post(self._url, content=body, headers=self._headers(first, len(lines), body))
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise NotDelivered(f"{type(error).__name__}: {error}") from error
        self._not_before = time.monotonic() + self._pause_s
        _judge(answer)

    def _headers(self, first: int, count: int, body: bytes) -> dict[str, str]:
        headers = {"Content-Type": self._format.batch_type, "User-Agent": "davit-audit"}
        if self._signer is not None:
            now = datetime.now(UTC)
            # The same each time that this batch is sent, so that a receiver knows it again.
            identity = f"{self._origin}:{first}-{first + count - 1}"
            headers |= {
                "webhook-id": identity,
                "webhook-timestamp": str(int(now.timestamp())),
                "webhook-signature": self._signer.sign(identity, now, body.decode()),
            }
        return headers

    async def _agree(self) -> None:
        """Ask whether it wants them, and how many batches a minute."""
        if time.monotonic() < self._agreed_until:
            return
        answer = await self._client.options(self._url, headers={"WebHook-Request-Origin": self._origin})
        if answer.status_code == 410:
            raise NotDelivered("the receiver is gone (410)", gone=True)
        allowed = [one.strip() for one in answer.headers.get("WebHook-Allowed-Origin", "").split(",")]
        if answer.status_code >= 300 or not {"*", self._origin} & set(allowed):
            raise NotDelivered(
                f"the receiver does not agree: OPTIONS was answered with {answer.status_code} and"
                f" WebHook-Allowed-Origin {', '.join(allowed) or 'missing'}, not {self._origin}"
            )
        rate = answer.headers.get("WebHook-Allowed-Rate", "*")
        self._pause_s = 60 / int(rate) if rate.isdecimal() and int(rate) else 0.0
        self._agreed_until = time.monotonic() + AGREED_FOR_S

    async def close(self) -> None:
        await self._client.aclose()


def _judge(answer: httpx.Response) -> None:
    """Raises NotDelivered unless the answer says that the batch was taken."""
    code = answer.status_code
    if code < 300:
        return
    if code == 410:
        raise NotDelivered("the receiver is gone (410)", gone=True)
    raise NotDelivered(f"the receiver answered {code}", after_s=_retry_after_s(answer.headers.get("Retry-After", "")))


def _retry_after_s(text: str) -> float:
    """Seconds, or a date. Source: RFC 9110 section 10.2.3."""
    if text.isdecimal():
        return min(float(text), LONGEST_REQUESTED_WAIT_S)
    try:
        at = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    return max(0.0, min(at.timestamp() - time.time(), LONGEST_REQUESTED_WAIT_S))


def _verify(ca_file: str) -> bool | str:
    return ca_file or True


def secret_of(path: str) -> str:
    """The secret in a file. Raises InvalidArgument when it cannot be read, or is none."""
    try:
        secret = Path(path).read_text().strip()
        Webhook(secret)
    except (OSError, ValueError, EmptyWebhookSecretError) as error:
        raise InvalidArgument(
            f"configuration key audit-sinks: the secret file {path} cannot be used: {error}", field="audit-sinks"
        ) from error
    return secret
