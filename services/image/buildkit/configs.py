"""Configurations of images as BuildKit makes them, from those of the builder's steps.

Source: OCI image-spec, config.md; images that BuildKit made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from services.image.build.images import CACHE, STEPS
from services.image.build.style import BUILDKIT

# What belongs to the builder's own steps and not to the image that comes out.
_OF_STEPS = ("comment", "container", "container_config", "docker_version", "parent", "id", STEPS, CACHE)
_KEPT = (
    "User",
    "ExposedPorts",
    "Env",
    "Entrypoint",
    "Cmd",
    "Volumes",
    "WorkingDir",
    "Labels",
    "StopSignal",
    "ArgsEscaped",
    "Healthcheck",
    "OnBuild",
    "Shell",
    "StopTimeout",
)


def _untold(step: Mapping[str, Any]) -> bool:
    """Whether a step is one that histories do not mention."""
    return step.get("comment") == BUILDKIT.comment and not step.get("created_by") and bool(step.get("empty_layer"))


def finished_config(raw: Mapping[str, Any], *, cache: bool = False) -> bytes:
    """The configuration of an image that is done.

    Args:
        cache: Say what other builds may take from it as cache.
    """
    value = {name: item for name, item in raw.items() if name not in _OF_STEPS}
    if cache and raw.get(STEPS):
        value[CACHE] = raw[STEPS]
    value["history"] = [step for step in raw.get("history") or [] if not _untold(step)]
    config = raw.get("config") or {}
    value["config"] = {name: config[name] for name in _KEPT if config.get(name)}
    if not value["config"].get("WorkingDir"):
        value["config"]["WorkingDir"] = "/"
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
