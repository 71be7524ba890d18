"""`davit images`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import click

from cli.common import names
from cli.common.engine import Engine, engine_options
from cli.common.output import listing_options, show
from cli.common.values import ago, short_id, size

_COLUMNS = {
    "REPOSITORY": "Repository",
    "TAG": "Tag",
    "IMAGE ID": "ShortID",
    "CREATED": "CreatedSince",
    "SIZE": "Size",
}


@click.command()
@engine_options
@listing_options
@click.option("-q", "--quiet", is_flag=True, help="Only ids.")
@click.argument("reference", required=False, shell_complete=names.images)
def command(engine: Engine, reference: str | None, *, quiet: bool, as_json: bool, form: str | None) -> None:
    """List images, all or those of a name.

    \b
    Examples:
      davit images
      davit images busybox
      davit images --format '{{.Repository}}:{{.Tag}} {{.Size}}'
    """
    query = "?" + urlencode({"filters": json.dumps({"reference": [reference]})}) if reference else ""
    images = engine.client().get("/images/json" + query)
    if quiet:
        for image in images:
            click.echo(short_id(image["Id"]))
        return
    show([row for image in images for row in _rows(image)], _COLUMNS, as_json=as_json, form=form)


def _rows(image: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """One for each name of the image."""
    for name in image.get("RepoTags") or ["<none>:<none>"]:
        repository, _, tag = name.rpartition(":")
        yield {
            "Repository": repository,
            "Tag": tag,
            "ID": image["Id"],
            "ShortID": short_id(image["Id"]),
            "CreatedAt": image["Created"],
            "CreatedSince": ago(image["Created"]),
            "Size": size(image["Size"]),
            "Bytes": image["Size"],
        }
