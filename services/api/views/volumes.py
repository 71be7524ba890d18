"""Volumes as Docker shows them. Source: Docker Engine API 1.50, Volume."""

from __future__ import annotations

from services.api.answers.system import VolumeShown
from shared.contracts.volumes import Volume


def volume(value: Volume, *, usage: bool = False) -> VolumeShown:
    """usage: with the size and the number of containers, as `system df` shows it."""
    result: VolumeShown = {
        "CreatedAt": value.created_at,
        "Driver": value.driver,
        "Labels": value.labels or None,
        "Mountpoint": value.mountpoint,
        "Name": value.name,
        "Options": value.options or None,
        "Scope": value.scope,
    }
    if value.status:
        result["Status"] = value.status
    if usage:
        result["UsageData"] = {"RefCount": len(value.in_use_by), "Size": value.size_bytes}
    return result
