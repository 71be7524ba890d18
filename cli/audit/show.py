"""`davit audit show`."""

from __future__ import annotations

import json

import click

from cli.audit.reading import not_there
from cli.common.engine import Engine, engine_options
from cli.common.exits import CommandFailed
from shared.docker.client import EngineClient


@click.command()
@engine_options
@click.argument("number", type=click.IntRange(0))
@click.option("--key", metavar="KEY", help="Whose signature counts: a verifier key, or a file with one.")
def command(engine: Engine, *, number: int, key: str | None) -> None:
    """Show a record whole, and prove that it is in the log.

    Without --key it is proved by the key that the engine names, which shows that the log fits together, and not who
    wrote it.

    \b
    Examples:
      davit audit show 1200
      davit audit show 1200 --key davit.pub
    """
    client = engine.client()
    data = b"".join(client.stream("GET", f"/audit?from={number}&limit=1&wait=0")).rstrip(b"\n")
    if not data:
        raise not_there(number)
    click.echo(json.dumps(json.loads(data), indent=2, ensure_ascii=False, sort_keys=True))
    state = client.get("/audit/state")
    if not state["Checkpoint"] or _size(state["Checkpoint"]) <= number:
        click.echo("not signed yet", err=True)
        return
    _prove(client, number, data, state, key)


def _size(note: str) -> int:
    return int(note.split("\n")[1])


def _prove(client: EngineClient, number: int, data: bytes, state: dict[str, str], key: str | None) -> None:
    from cli.audit.keyfile import key_of
    from shared.transparency.checkpoints import Checkpoint
    from shared.transparency.merkle import leaf_hash, verify_inclusion

    checkpoint = Checkpoint.opened(state["Checkpoint"], key_of(key or state["Key"]))
    proof = client.get(f"/audit/proof/inclusion?number={number}&size={checkpoint.size}")
    hashes = [bytes.fromhex(one) for one in proof["Hashes"]]
    if not verify_inclusion(leaf_hash(data), number, checkpoint.size, hashes, checkpoint.root):
        raise CommandFailed(f"record {number} is not what was signed at {checkpoint.time}")
    click.echo(f"proved: in the log of {checkpoint.size} records signed at {checkpoint.time}", err=True)
