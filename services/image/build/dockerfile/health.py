"""HEALTHCHECK.

Source: Dockerfile reference, HEALTHCHECK.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.image.build.dockerfile.errors import SyntaxProblem
from services.image.build.dockerfile.words import Flags, json_array
from shared.docker.durations import parse_duration_ns

MIN_DURATION_NS = 1_000_000


@dataclass(frozen=True, slots=True)
class Healthcheck:
    """Attributes: test: ("NONE",), ("CMD", …) or ("CMD-SHELL", text). *_ns: 0 is the default. retries: the same."""

    test: tuple[str, ...]
    interval_ns: int = 0
    timeout_ns: int = 0
    start_period_ns: int = 0
    start_interval_ns: int = 0
    retries: int = 0


def parse_healthcheck(text: str, flags: Flags) -> Healthcheck:
    """Raises SyntaxProblem."""
    if not text:
        raise SyntaxProblem("HEALTHCHECK requires at least one argument")
    parts = text.split(maxsplit=1)
    kind, rest = parts[0].upper(), parts[1] if len(parts) > 1 else ""
    if kind == "NONE":
        if rest:
            raise SyntaxProblem("HEALTHCHECK NONE takes no arguments")
        return Healthcheck(("NONE",))
    if kind != "CMD":
        raise SyntaxProblem(f'Unknown type "{kind}" in HEALTHCHECK (try CMD)')
    array = json_array(rest)
    if not rest or array == []:
        raise SyntaxProblem("Missing command after HEALTHCHECK CMD")
    return Healthcheck(
        ("CMD-SHELL", rest) if array is None else ("CMD", *array),
        interval_ns=_interval(flags, "interval"),
        timeout_ns=_interval(flags, "timeout"),
        start_period_ns=_interval(flags, "start-period"),
        start_interval_ns=_interval(flags, "start-interval"),
        retries=_retries(flags.text("retries")),
    )


def _interval(flags: Flags, name: str) -> int:
    text = flags.text(name)
    if not text:
        return 0
    try:
        value = parse_duration_ns(text)
    except ValueError as error:
        raise SyntaxProblem(str(error)) from error
    if value != 0 and value < MIN_DURATION_NS:
        raise SyntaxProblem(f'Interval "{name}" cannot be less than 1ms')
    return value


def _retries(text: str) -> int:
    if not text:
        return 0
    try:
        retries = int(text)
    except ValueError as error:
        raise SyntaxProblem(f'strconv.ParseInt: parsing "{text}": invalid syntax') from error
    if retries < 1:
        raise SyntaxProblem(f"--retries must be at least 1 (not {retries})")
    return retries
