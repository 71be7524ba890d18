"""Images as Docker shows them.

Source: Docker Engine API 1.50, ImageInspect, ImageSummary, HistoryResponseItem, ImageDeleteResponseItem.
"""

from __future__ import annotations

from typing import Any

from services.api.answers import images as answers
from services.api.answers.containers import GraphDriver
from services.api.versions import Version
from services.api.views import config as parts
from shared.contracts.docker import ContainerConfig
from shared.contracts.images import (
    BuildCacheEntry,
    Distribution,
    HistoryEntry,
    Image,
    ManifestSummary,
    Removals,
    SearchHits,
)
from shared.docker.moments import rfc3339

ZERO_TIME = "0001-01-01T00:00:00Z"
# Docker dropped these as the API grew.
WITHOUT_VIRTUAL_SIZE = (1, 44)
WITHOUT_CONTAINER_CONFIG = (1, 45)
WITHOUT_NONE_TAGS = (1, 43)
WITHOUT_CONFIG_LEFTOVERS = (1, 50)
WITHOUT_EMPTY = (1, 52)
# Fields of a container's configuration that images never had a meaning for.
CONFIG_LEFTOVERS = (
    "Hostname",
    "Domainname",
    "AttachStdin",
    "AttachStdout",
    "AttachStderr",
    "Tty",
    "OpenStdin",
    "StdinOnce",
    "Image",
    "NetworkDisabled",
    "MacAddress",
    "StopTimeout",
)


def image_config(value: ContainerConfig, version: Version) -> dict[str, Any]:
    result = parts.config(value)
    if not value.env:
        result["Env"] = None
    if not value.labels:
        result["Labels"] = None
    if version >= WITHOUT_CONFIG_LEFTOVERS:
        for name in CONFIG_LEFTOVERS:
            result.pop(name, None)
        kept = () if version >= WITHOUT_EMPTY else ("Cmd", "Entrypoint", "Env")
        result = {name: item for name, item in result.items() if item or name in kept}
    return result


def image(value: Image, version: Version, data_root: str) -> answers.ImageInspect:
    root: answers.RootFs = {"Type": "layers"}
    if value.diff_ids:
        root["Layers"] = value.diff_ids
    result: answers.ImageInspect = {
        "Id": value.id,
        "RepoTags": value.repo_tags,
        "RepoDigests": value.repo_digests,
        "Config": image_config(value.config, version),
        "Architecture": value.architecture,
        "Os": value.os,
        "Size": value.size_bytes,
        "GraphDriver": graph_driver(value, data_root),
        "RootFS": root,
        "Metadata": {"LastTagTime": rfc3339(value.last_tag_time_ns) if value.last_tag_time_ns else ZERO_TIME},
    }
    if value.parent or version < WITHOUT_EMPTY:
        result["Parent"] = value.parent
    if value.comment or version < WITHOUT_EMPTY:
        result["Comment"] = value.comment
    if value.docker_version or version < WITHOUT_EMPTY:
        result["DockerVersion"] = value.docker_version
    if value.author or version < WITHOUT_EMPTY:
        result["Author"] = value.author
    if value.created or version < WITHOUT_VIRTUAL_SIZE:
        result["Created"] = value.created or ZERO_TIME
    if value.variant:
        result["Variant"] = value.variant
    if value.os_version:
        result["OsVersion"] = value.os_version
    if version < WITHOUT_VIRTUAL_SIZE:
        result["VirtualSize"] = value.size_bytes
    if version < WITHOUT_CONTAINER_CONFIG:
        result["Container"] = ""
        result["ContainerConfig"] = image_config(ContainerConfig(), version)
    if value.manifests is not None:
        result["Manifests"] = [manifest(item) for item in value.manifests]
    return result


def manifest(value: ManifestSummary) -> answers.ManifestSummary:
    """One of the images that a name stands for."""
    platform: answers.Platform = {"architecture": value.platform.architecture, "os": value.platform.os}
    if value.platform.variant:
        platform["variant"] = value.platform.variant
    return {
        "ID": value.digest,
        "Descriptor": {
            "mediaType": value.media_type,
            "digest": value.digest,
            "size": value.manifest_bytes,
            "platform": platform,
        },
        "Available": value.available,
        "Size": {"Content": value.content_bytes, "Total": value.content_bytes + value.unpacked_bytes},
        "Kind": "image",
        "ImageData": {
            "Platform": platform,
            "Containers": value.containers,
            "Size": {"Unpacked": value.unpacked_bytes},
        },
    }


def graph_driver(value: Image, data_root: str) -> GraphDriver:
    directories = [f"{data_root}/layers/{chain.removeprefix('sha256:')}/fs" for chain in reversed(value.chain_ids)]
    data: dict[str, str] = {}
    if directories:
        data["UpperDir"] = directories[0]
    if directories[1:]:
        data["LowerDir"] = ":".join(directories[1:])
    return {"Data": data or None, "Name": "overlay2"}


def summary(value: Image, version: Version) -> answers.ImageSummary:
    tags, digests = value.repo_tags, value.repo_digests
    if version < WITHOUT_NONE_TAGS and not tags and not digests:
        tags, digests = ["<none>:<none>"], ["<none>@<none>"]
    result: answers.ImageSummary = {
        "Containers": value.containers,
        "Created": value.created_unix,
        "Id": value.id,
        "Labels": value.config.labels or None,
        "ParentId": value.parent,
        "RepoDigests": digests,
        "RepoTags": tags,
        "SharedSize": value.shared_size_bytes,
        "Size": value.size_bytes,
    }
    if version < WITHOUT_VIRTUAL_SIZE:
        result["VirtualSize"] = value.size_bytes
    if value.manifests is not None:
        result["Manifests"] = [manifest(item) for item in value.manifests]
    return result


def history(value: HistoryEntry) -> answers.HistoryStep:
    return {
        "Comment": value.comment,
        "Created": value.created_unix,
        "CreatedBy": value.created_by,
        "Id": value.id,
        "Size": value.size_bytes,
        "Tags": value.tags or None,
    }


def removals(value: Removals) -> list[answers.Removal]:
    return [
        {"Untagged": item.untagged} if item.untagged is not None else {"Deleted": item.deleted or ""}
        for item in value.removals
    ]


def search(value: SearchHits) -> list[answers.SearchHit]:
    return [
        {
            "star_count": hit.star_count,
            "is_official": hit.is_official,
            "name": hit.name,
            "is_automated": hit.is_automated,
            "description": hit.description,
        }
        for hit in value.hits
    ]


def distribution(value: Distribution) -> answers.DistributionInspect:
    platforms: list[answers.Platform] = []
    for item in value.platforms:
        platform: answers.Platform = {"architecture": item.architecture, "os": item.os}
        if item.os_version:
            platform["os.version"] = item.os_version
        if item.variant:
            platform["variant"] = item.variant
        platforms.append(platform)
    descriptor: answers.Descriptor = {"mediaType": value.media_type, "digest": value.digest, "size": value.size_bytes}
    return {"Descriptor": descriptor, "Platforms": platforms}


def build_cache(value: BuildCacheEntry, version: Version) -> answers.BuildCacheRecord:
    result: answers.BuildCacheRecord = {
        "ID": value.id,
        "Type": value.type,
        "Description": value.description,
        "InUse": value.in_use,
        "Shared": value.shared,
        "Size": value.size_bytes,
        "CreatedAt": value.created_at,
        "LastUsedAt": value.last_used_at,
        "UsageCount": value.usage_count,
    }
    if version < (1, 42):
        result["Parent"] = value.parents[0] if value.parents else ""
    elif value.parents:
        result["Parents"] = value.parents
    return result
