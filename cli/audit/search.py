"""`davit audit search`."""

from __future__ import annotations

import time
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

import click

from cli.audit.reading import oldest, pages, shown
from cli.common.engine import Engine, engine_options
from shared.docker.moments import moment_ns, rfc3339
from shared.errors import InvalidArgument

Test = Callable[[dict[str, Any]], bool]


@click.command()
@engine_options
@click.option("--actor", metavar="PATTERN", help="Who: uid:1000, tls:ci, a user's name, a container's id.")
@click.option("--resource", metavar="PATTERN", help="container, image, network, volume, exec, …")
@click.option("--verb", metavar="PATTERN", help="create, start, remove, …")
@click.option("--object", "name", metavar="PATTERN", help="A name or an id, asked for or changed.")
@click.option("--kind", metavar="PATTERN", help="received, complete, begin, end, engine, effect, gap.")
@click.option("--request", metavar="ID", help="All of one request (the header X-Request-Id has it).")
@click.option("--failed", is_flag=True, help="Only what was refused or went wrong.")
@click.option("--since", metavar="TIME", help="From here on: RFC 3339, seconds since the epoch, or 10m.")
@click.option("--until", metavar="TIME", help="Up to here.")
@click.option("--from", "first", type=click.IntRange(0), metavar="N", help="Begin with this number.")
@click.option("--json", "as_json", is_flag=True, help="An object a line.")
def command(engine: Engine, *, first: int | None, as_json: bool, **asked: Any) -> None:
    """Find records.

    \b
    Examples:
      davit audit search --actor alice --verb remove --since 24h
      davit audit search --resource exec --object 'web*'
      davit audit search --failed --json
    """
    tests = tests_of(**asked)
    client = engine.client()
    end = int(client.get("/audit/state")["Size"])
    for record in pages(client, max(oldest(client), first or 0), end):
        if all(test(record) for test in tests):
            click.echo(shown(record, as_json))


def tests_of(
    *,
    actor: str | None,
    resource: str | None,
    verb: str | None,
    name: str | None,
    kind: str | None,
    request: str | None,
    failed: bool,
    since: str | None,
    until: str | None,
) -> list[Test]:
    """One test for each thing that was asked for. Raises InvalidArgument for a time that is none."""
    tests: list[Test] = []
    if actor:
        tests.append(lambda record: _fits(actor, *map(str, (record.get("actor") or {}).values())))
    for field, pattern in (("resource", resource), ("verb", verb)):
        if pattern:
            tests.append(lambda record, f=field, p=pattern: _fits(p, str((record.get("action") or {}).get(f, ""))))  # type: ignore[misc]
    if name:
        tests.append(lambda record: _fits(name, *_objects(record)))
    if kind:
        tests.append(lambda record: _fits(kind, record["kind"]))
    if request:
        tests.append(lambda record: record.get("request") == request)
    if failed:
        tests.append(lambda record: (record.get("outcome") or {"status": 0}).get("status") in _FAILURES)
    if since:
        begin = _moment(since, "since")
        tests.append(lambda record: record["time"] >= begin)
    if until:
        end = _moment(until, "until")
        tests.append(lambda record: record["time"] <= end)
    return tests


_FAILURES = (None, *range(400, 600))


def _objects(record: dict[str, Any]) -> list[str]:
    action = record.get("action") or {}
    return [str(action.get("object", "")), *(str(one.get("id")) for one in record.get("changed") or ())]


def _fits(pattern: str, *values: str) -> bool:
    return any(fnmatchcase(value, pattern) for value in values)


def _moment(text: str, field: str) -> str:
    """As records have it: with all digits, so that texts compare as moments do."""
    try:
        return rfc3339(moment_ns(text, time.time_ns()), 9)
    except ValueError as error:
        raise InvalidArgument(f"--{field}: {text} is no time", field=field) from error
