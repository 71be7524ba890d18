"""`davit audit verify`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.audit.export import decompressed, export
from cli.common.engine import Engine, engine_options
from cli.common.exits import CommandFailed

if TYPE_CHECKING:
    from shared.auditing.verify import Findings

READ_BYTES = 1 << 20
EXISTING = click.Path(exists=True, dir_okay=False, path_type=Path)
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


@click.command()
@engine_options
@click.option("--from", "first", type=click.IntRange(0), default=0, metavar="N", help="The first record to check.")
@click.option("--key", metavar="KEY", help="Who must have signed: a verifier key, or a file with one.")
@click.option(
    "--file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="An export, checked offline."
)
@click.option(
    "--checkpoint", "kept", multiple=True, type=EXISTING,
    help="A signed checkpoint that was kept elsewhere; the log must fit it.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="The findings as JSON.")
def command(
    engine: Engine, *, first: int, key: str | None, file: Path | None, kept: tuple[Path, ...], as_json: bool
) -> None:
    """Check that the log is what was signed.

    One changed, missing, moved or inserted byte is found, and where it is. Without --key the log is checked by the key
    that it names itself: give the one that you have from elsewhere, and checkpoints that you have kept, to find a log
    that was written anew as a whole.

    \b
    Examples:
      davit audit verify --key davit.pub
      davit audit verify --file export.jsonl --key davit.pub --checkpoint yesterday.note
    """
    from cli.audit.keyfile import key_of
    from shared.auditing.verify import Verifier
    from shared.transparency.checkpoints import Checkpoint

    chunks = _read(file) if file is not None else decompressed(export(engine.client(), first, None))
    trusted = key_of(key) if key else None
    known = []
    for path in kept:
        if trusted is None:
            raise click.UsageError("--checkpoint needs --key")
        known.append(Checkpoint.opened(path.read_text(), trusted))
    findings = Verifier(trusted, known).check(lines_of(chunks))
    if as_json:
        click.echo(json.dumps(_as_dict(findings)))
    else:
        _tell(findings, trusted=trusted is not None)
    if findings.problems:
        raise CommandFailed("the audit log is not what was signed")


def _read(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        begin = file.read(len(ZSTD_MAGIC))
        file.seek(0)
        chunks = iter(lambda: file.read(READ_BYTES), b"")
        yield from decompressed(chunks) if begin == ZSTD_MAGIC else chunks


def lines_of(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Lines without their ends; also the last one without one."""
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        yield from whole
    if rest:
        yield rest


def _as_dict(findings: Findings) -> dict[str, object]:
    return {
        "first": findings.first,
        "end": findings.end,
        "proved": findings.proved,
        "unsigned": findings.unsigned,
        "checkpoints": findings.checkpoints,
        "time": findings.time,
        "key": findings.key,
        "gaps": [record["number"] for record in findings.gaps],
        "problems": findings.problems,
    }


def _tell(findings: Findings, *, trusted: bool) -> None:
    for problem in findings.problems:
        click.echo(f"WRONG: {problem}")
    if findings.proved is None:
        click.echo("nothing is proved: no checkpoint was reached")
    else:
        click.echo(
            f"records {findings.first} to {findings.proved - 1} are what was signed"
            f" ({findings.checkpoints} checkpoints, the newest of {findings.time})"
        )
    if findings.unsigned and not findings.problems:
        click.echo(f"{findings.unsigned} newer records are not signed yet")
    for record in findings.gaps:
        gap = record["gap"]
        count = "an unknown number" if gap["count"] is None else gap["count"]
        click.echo(f"record {record['number']} says that {count} could not be recorded: {gap['reason']}")
    if not trusted:
        click.echo(f"checked by the key that the log names: {findings.key}")
