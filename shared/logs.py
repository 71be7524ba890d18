"""Structured logs on stderr: one line, ``key=value`` or JSON, with the request they belong to.

Secrets do not get here: a value whose key names a secret, and the password of a URL, are replaced by ``***``.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import orjson

from shared.bus.context import current_request_id
from shared.docker.moments import rfc3339

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_SECRET_KEY = re.compile(r"passw|secret|token|auth(?!or)|credential|private_?key|identity", re.IGNORECASE)
_URL_PASSWORD = re.compile(r"(?P<head>\b[a-z][a-z0-9+.-]*://[^\s:/@]*:)[^\s/]+(?=@)", re.IGNORECASE)
_PLAIN = re.compile(r"[^\s=\"]+")
HIDDEN = "***"


def hide_secrets(text: str) -> str:
    """The text with passwords of URLs hidden."""
    return _URL_PASSWORD.sub(rf"\g<head>{HIDDEN}", text)


def is_secret(key: str) -> bool:
    """Whether a field of this name may hold a secret."""
    return _SECRET_KEY.search(key) is not None


class StructuredFormatter(logging.Formatter):
    """Formats a record with its extra fields.

    Args:
        service: Named in every line.
        json: One JSON object per line instead of ``key=value`` pairs.
    """

    def __init__(self, service: str, *, json: bool = False) -> None:
        super().__init__()
        self._service = service
        self._json = json

    def format(self, record: logging.LogRecord) -> str:
        fields = self._fields(record)
        if self._json:
            return orjson.dumps(fields, default=str).decode()
        return " ".join(f"{key}={_quoted(value)}" for key, value in fields.items())

    def _fields(self, record: logging.LogRecord) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "time": rfc3339(int(record.created * 1e9), digits=3),
            "level": record.levelname.lower(),
            "service": self._service,
            "msg": hide_secrets(record.getMessage()),
        }
        request_id = current_request_id()
        if request_id:
            fields["request_id"] = request_id
        for key, value in vars(record).items():
            if key not in _STANDARD:
                fields[key] = HIDDEN if is_secret(key) else _without_secrets(value)
        if record.exc_info:
            fields["error"] = hide_secrets(self.formatException(record.exc_info))
        return fields


class StructuredLogger(logging.LoggerAdapter[logging.Logger]):
    """A logger that takes fields as keyword arguments: ``log.info("pulled", image=name, size_bytes=n)``."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        known = {key: kwargs.pop(key) for key in ("exc_info", "stack_info", "stacklevel") if key in kwargs}
        extra = dict(kwargs.pop("extra", None) or {})
        extra.update(kwargs)
        return msg, {**known, "extra": extra}


def configure(service: str, *, level: str = "info", json: bool = False, stream: TextIO | None = None) -> None:
    """Send the process's log records, of this level and above, to a stream (stderr)."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(StructuredFormatter(service, json=json))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    set_level(level)


def set_level(level: str) -> None:
    """Have this level and above recorded; it can be changed at any time."""
    root = logging.getLogger()
    _set_level(root, logging.getLevelNamesMapping()[level.upper()])
    # Libraries say at INFO what is only of interest to who debugs them.
    for noisy in ("httpx", "httpcore", "alembic", "uvicorn.access", "asyncio", "nats"):
        _set_level(logging.getLogger(noisy), max(logging.WARNING, root.level))


def _set_level(logger: logging.Logger, level: int) -> None:
    """Only when it changes something: `setLevel` visits all loggers there are, which unshares a fork's memory."""
    if logger.level != level:
        logger.setLevel(level)


def _without_secrets(value: Any) -> Any:
    if isinstance(value, str):
        return hide_secrets(value)
    if isinstance(value, dict):
        return {key: HIDDEN if is_secret(str(key)) else _without_secrets(item) for key, item in value.items()}
    return value


def _quoted(value: Any) -> str:
    text = (
        value if isinstance(value, str) else orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
    )
    return text if _PLAIN.fullmatch(text) else orjson.dumps(text).decode()
