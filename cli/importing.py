"""`davit import`."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import BinaryIO
from urllib.parse import urlencode

import click

from cli.common.engine import Engine, engine_options
from shared.errors import InvalidArgument, NotFound


@click.command()
@engine_options
@click.option("-c", "--change", multiple=True, metavar="INSTRUCTION", help="A Dockerfile's, as 'CMD [\"sh\"]'.")
@click.argument("file", type=click.Path(allow_dash=True))
@click.argument("reference")
def command(engine: Engine, file: str, reference: str, *, change: tuple[str, ...]) -> None:
    """Make an image of a root file system's tar; FILE may be - for the standard input.

    \b
    Examples:
      davit import --change 'CMD ["sh"]' rootfs.tar.gz mine:1.0
      tar -C rootfs -c . | davit import - mine
    """
    repository, _, tag = reference.rpartition(":")
    if not repository or "/" in tag:
        repository, tag = reference, "latest"
    asked = [("fromSrc", "-"), ("repo", repository), ("tag", tag), *(("changes", one) for one in change)]
    with _opened(file) as tar:
        for line in engine.client().lines("POST", f"/images/create?{urlencode(asked)}", tar):
            if "error" in line:
                raise InvalidArgument(str(line["error"]))
            click.echo(line.get("status", ""))


def _opened(path: str) -> AbstractContextManager[BinaryIO]:
    if path == "-":
        return contextlib.nullcontext(sys.stdin.buffer)
    try:
        file = open(path, "rb")  # noqa: SIM115  # closed by whoever gets it; the message is for the opening alone
    except OSError as error:
        raise NotFound(f"{path} cannot be read: {error.strerror}") from error
    return _shown(file) if sys.stderr.isatty() else file


@contextlib.contextmanager
def _shown(file: BinaryIO) -> Iterator[BinaryIO]:
    """The file, and on the terminal how much of it has been read."""
    from rich.console import Console
    from rich.progress import wrap_file

    total = os.fstat(file.fileno()).st_size
    with wrap_file(file, total, description="importing", console=Console(stderr=True), transient=True) as wrapped:
        yield wrapped
