"""`davit node update`."""

from __future__ import annotations

from urllib.parse import quote

import click

from cli.common.engine import Engine, engine_options
from shared.errors import InvalidArgument


@click.command()
@engine_options
@click.argument("node")
@click.option("--availability", type=click.Choice(["active", "pause", "drain"]))
@click.option("--label-add", multiple=True, metavar="KEY=VALUE")
@click.option("--label-rm", multiple=True, metavar="KEY")
def command(
    engine: Engine, *, node: str, availability: str | None, label_add: tuple[str, ...], label_rm: tuple[str, ...]
) -> None:
    """Change a node's labels or availability.

    active: it gets new containers; pause: it keeps what it has and gets no more; drain: the same, and what may move
    moves away.

    \b
    Examples:
      davit node update --label-add zone=a --label-add disk=ssd second
      davit node update --availability drain second
    """
    client = engine.client()
    current = client.get(f"/nodes/{quote(node, safe='')}")
    spec = current["Spec"]
    labels = dict(spec["Labels"])
    for key in label_rm:
        if key not in labels:
            raise InvalidArgument(f"node {node} has no label {key}")
        del labels[key]
    for text in label_add:
        key, _, value = text.partition("=")
        if not key:
            raise InvalidArgument(f"--label-add: {text!r} is not of the form KEY=VALUE")
        labels[key] = value
    spec |= {"Labels": labels, "Availability": availability or spec["Availability"]}
    client.post(f"/nodes/{current['ID']}/update?version={current['Version']['Index']}", spec)
    click.echo(current["Description"]["Hostname"])
