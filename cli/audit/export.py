"""`davit audit export`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from cli.common.engine import Engine, engine_options
from shared.docker.client import EngineClient


@click.command()
@engine_options
@click.option("--from", "first", type=click.IntRange(0), default=0, metavar="N", help="The first record.")
@click.option("--to", "end", type=click.IntRange(1), metavar="N", help="The one after the last.  [default: all signed]")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="A file; *.zst is compressed.")
def command(engine: Engine, *, first: int, end: int | None, output: Path | None) -> None:
    """Write records and what proves them to a file.

    JSON lines: records, and between them the checkpoints that sign them, so that `davit audit verify --file` needs
    nothing else, on any machine.

    \b
    Examples:
      davit audit export -o audit.jsonl
      davit audit export --from 1000 -o audit.jsonl.zst
    """
    compressed = export(engine.client(), first, end)
    if output is not None and output.suffix == ".zst":
        with output.open("wb") as file:
            file.writelines(compressed)
        return
    plain = decompressed(compressed)
    if output is None:
        for chunk in plain:
            sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()
        return
    with output.open("wb") as file:
        file.writelines(plain)


def export(client: EngineClient, first: int, end: int | None) -> Iterator[bytes]:
    """The export as it comes, compressed."""
    return client.stream("GET", f"/audit/export?from={first}&to={end or 0}")


def decompressed(chunks: Iterator[bytes]) -> Iterator[bytes]:
    import zstandard

    decompressor = zstandard.ZstdDecompressor().decompressobj()
    for chunk in chunks:
        if data := decompressor.decompress(chunk):
            yield data
