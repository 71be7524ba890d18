"""Completion of what an engine knows by name: containers, images. Nothing is said when it does not answer."""

from __future__ import annotations

from typing import Any

import click

from cli.common.engine import Engine
from shared.docker.client import EngineClient
from shared.errors import DavitError

WITHIN_S = 1.0


def containers(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Names of containers that begin so."""
    found = _listed(context, "/containers/json?all=1")
    names = [name.removeprefix("/") for container in found for name in container["Names"]]
    return [name for name in names if name.startswith(incomplete)]


def images(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Names of images that begin so."""
    names = [tag for image in _listed(context, "/images/json") for tag in image.get("RepoTags") or []]
    return [name for name in names if name.startswith(incomplete)]


def _listed(context: click.Context, target: str) -> list[dict[str, Any]]:
    given = context.find_root().params | {key: value for key, value in context.params.items() if value is not None}
    try:
        engine = Engine(given.get("run_dir"), given.get("host"))
        listed: list[dict[str, Any]] = EngineClient(engine.host).get(target, timeout_s=WITHIN_S)
    except DavitError:
        return []  # a completion has nowhere to say why
    return listed
