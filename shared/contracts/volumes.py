"""Volumes: what the volume service answers, and what it sends to nodes."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from shared.bus.client import Contract, Empty
from shared.docker.filters import Filters


class Volume(BaseModel):
    """Attributes: in_use_by: ids of the containers that hold it. size_bytes: -1 when not measured."""

    name: str
    driver: str = "local"
    mountpoint: str = ""
    created_at: str = ""
    labels: dict[str, str] = Field(default_factory=dict)
    options: dict[str, str] = Field(default_factory=dict)
    scope: str = "local"
    anonymous: bool = False
    node: str = ""
    in_use_by: list[str] = Field(default_factory=list)
    size_bytes: int = -1
    status: dict[str, Any] = Field(default_factory=dict)


class CreateVolume(BaseModel):
    """An empty name gets a generated one. The same name again with the same driver answers the existing volume."""

    name: str = ""
    driver: str = ""
    options: dict[str, str] = Field(default_factory=dict)
    labels: dict[str, str] = Field(default_factory=dict)


class VolumeRef(BaseModel):
    name: str
    force: bool = False


class ListVolumes(BaseModel):
    filters: Filters = Field(default_factory=dict)
    sizes: bool = False


class Volumes(BaseModel):
    volumes: list[Volume]
    warnings: list[str] = Field(default_factory=list)


class PruneVolumes(BaseModel):
    filters: Filters = Field(default_factory=dict)


class PrunedVolumes(BaseModel):
    names: list[str]
    space_reclaimed_bytes: int = 0


class WantedVolume(BaseModel):
    """A volume a container mounts; an empty name asks for a new anonymous one.

    Attributes:
        target, read_only: Where and how, for the event that tells of it.
    """

    name: str = ""
    target: str = ""
    read_only: bool = False
    driver: str = ""
    options: dict[str, str] = Field(default_factory=dict)
    labels: dict[str, str] = Field(default_factory=dict)


class AcquireVolumes(BaseModel):
    """Create what is missing and hold all for the container. Idempotent per container and position."""

    container_id: str
    node: str
    volumes: list[WantedVolume]


class AcquiredVolumes(BaseModel):
    """In the order asked for."""

    volumes: list[Volume]


class ReleaseVolumes(BaseModel):
    """Let go of all that a container holds; with `remove_anonymous`, remove those nobody else holds."""

    container_id: str
    remove_anonymous: bool = False


class NodeVolume(BaseModel):
    """A local volume on its node. options: type, o, device, as mount(8) takes them."""

    name: str
    options: dict[str, str] = Field(default_factory=dict)


class NodeVolumes(BaseModel):
    names: list[str]


class VolumeSizes(BaseModel):
    """Bytes on disk by name; a volume that is gone is missing."""

    sizes: dict[str, int]


CREATE = Contract("davit.volume.volume.create", CreateVolume, Volume)
INSPECT = Contract("davit.volume.volume.inspect", VolumeRef, Volume, idempotent=True)
LIST = Contract("davit.volume.volume.list", ListVolumes, Volumes, deadline_s=60, idempotent=True)
REMOVE = Contract("davit.volume.volume.remove", VolumeRef, Empty, deadline_s=120, frees=True)
PRUNE = Contract("davit.volume.volume.prune", PruneVolumes, PrunedVolumes, deadline_s=600, frees=True)
# Asked by control.
ACQUIRE = Contract("davit.volume.volume.acquire", AcquireVolumes, AcquiredVolumes, idempotent=True)
RELEASE = Contract("davit.volume.volume.release", ReleaseVolumes, Empty, deadline_s=120, idempotent=True, frees=True)
# Sent to agents.
NODE_ENSURE = Contract("davit.node.{node}.volume.ensure", NodeVolume, Empty, idempotent=True)
NODE_REMOVE = Contract("davit.node.{node}.volume.remove", NodeVolume, Empty, deadline_s=120, idempotent=True)
NODE_SIZES = Contract("davit.node.{node}.volume.sizes", NodeVolumes, VolumeSizes, deadline_s=60, idempotent=True)
