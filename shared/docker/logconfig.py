"""Log drivers and their options: which there are, and what their values may be; of containers and of the defaults."""

from __future__ import annotations

import re
from collections.abc import Mapping

from shared.docker.sizes import decimal_bytes
from shared.errors import InvalidArgument

DRIVERS = ("json-file", "local", "none")
OPTIONS = frozenset({"max-size", "max-file", "compress", "labels", "labels-regex", "env", "env-regex", "tag", "mode"})


def check_driver(driver: str, field: str) -> None:
    """Raises InvalidArgument, with Docker's words, for a driver that is not there."""
    if driver not in DRIVERS:
        raise InvalidArgument(f'error looking up logging plugin {driver}: plugin "{driver}" not found', field=field)


def check_options(driver: str, options: Mapping[str, str], field: str) -> None:
    """Raises InvalidArgument, with Docker's words, for the first option that is unknown or has a wrong value."""
    if driver == "none":
        return
    for option, value in options.items():
        if option not in OPTIONS:
            raise InvalidArgument(f"unknown log opt '{option}' for {driver} log driver", field=field)
        if option == "max-size" and value != "-1":
            decimal_bytes(value)
        if option == "max-file" and (not value.isdecimal() or int(value) < 1):
            raise InvalidArgument("max-file cannot be less than 1", field=field)
        if option == "compress" and value not in ("true", "false"):
            raise InvalidArgument(f"invalid value for compress: {value}", field=field)
        if option == "mode" and value != "blocking":
            raise InvalidArgument(
                f"log mode {value} is not supported by this engine: containers never wait for a reader", field=field
            )
        if option.endswith("-regex"):
            _check_pattern(value, field)


def _check_pattern(pattern: str, field: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise InvalidArgument(f"invalid pattern {pattern!r}: {error}", field=field) from error
