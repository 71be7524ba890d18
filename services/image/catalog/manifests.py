"""Image manifests, indexes and configurations: what they are called, what they say, which one fits this machine.

Source: OCI image-spec (manifest.md, image-index.md, config.md); Docker image manifest version 2, schema 2.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from shared.docker.platforms import Platform, own_platform
from shared.errors import InvalidArgument, NotFound

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_SCHEMA1 = (
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
)
EMPTY_CONFIG = "application/vnd.oci.empty.v1+json"
# What registries and old clients have called an image's configuration.
IMAGE_CONFIGS = (OCI_CONFIG, DOCKER_CONFIG, "application/octet-stream", "application/json", "text/html", "")

MANIFESTS = (OCI_MANIFEST, DOCKER_MANIFEST)
INDEXES = (OCI_INDEX, DOCKER_INDEX)
ACCEPTED = (*MANIFESTS, *INDEXES)

# A manifest is read into memory; registries refuse larger ones too (distribution: 4 MiB).
MAX_MANIFEST_BYTES = 4 * 1024 * 1024
MAX_CONFIG_BYTES = 8 * 1024 * 1024
MAX_LAYERS = 500


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass(frozen=True, slots=True)
class Descriptor:
    """Points at content. `platform` and `annotations` are as written; `raw` is the whole object."""

    media_type: str
    digest: str
    size: int
    platform: dict[str, Any] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    raw: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, value: Any) -> Descriptor:
        if not isinstance(value, dict):
            raise InvalidArgument("invalid manifest: a descriptor is not an object")
        digest, size = value.get("digest"), value.get("size")
        if not isinstance(digest, str) or not is_digest(digest):
            raise InvalidArgument(f"invalid manifest: unsupported digest {str(digest)[:100]!r}")
        if not isinstance(size, int) or size < 0:
            raise InvalidArgument(f"invalid manifest: {digest} has the size {str(size)[:40]!r}")
        return cls(
            str(value.get("mediaType", "")),
            digest,
            size,
            _object(value, "platform"),
            _object(value, "annotations"),
            value,
        )

    def to_json(self) -> dict[str, Any]:
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size}


def _object(value: dict[str, Any], key: str) -> dict[str, Any]:
    found = value.get(key)
    return found if isinstance(found, dict) else {}


def is_digest(text: str) -> bool:
    """Whether a text is a digest that this store keeps content under."""
    value = text.removeprefix("sha256:")
    return len(text) == 71 and len(value) == 64 and all(c in "0123456789abcdef" for c in value)


@dataclass(frozen=True, slots=True)
class Manifest:
    """One image: its configuration and layers, lowest first."""

    media_type: str
    config: Descriptor
    layers: list[Descriptor]
    subject: Descriptor | None = None
    artifact_type: str = ""
    annotations: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Index:
    """Several images under one name, one per platform."""

    media_type: str
    manifests: list[Descriptor]
    subject: Descriptor | None = None
    artifact_type: str = ""
    annotations: dict[str, str] = field(default_factory=dict)


def parse(data: bytes, media_type: str = "") -> Manifest | Index:
    """What a manifest says.

    Args:
        media_type: What the server called it; the manifest's own ``mediaType`` when empty.

    Raises:
        InvalidArgument: It is no manifest, or one of a kind that is not supported (schema 1).
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise InvalidArgument(f"a manifest of {len(data)} bytes is larger than the {MAX_MANIFEST_BYTES} allowed")
    value = load_object(data, "manifest")
    stated = str(value.get("mediaType") or "")
    kind = stated or media_type
    if media_type in DOCKER_SCHEMA1 or value.get("schemaVersion") == 1:
        raise InvalidArgument(
            "Docker Image Format v1 and Docker Image manifest version 2, schema 1 are not supported: "
            "the image must be pushed again by a current tool"
        )
    if kind not in ACCEPTED:
        kind = OCI_INDEX if "manifests" in value else OCI_MANIFEST
    if (kind in INDEXES and "layers" in value) or (kind in MANIFESTS and "manifests" in value):
        raise InvalidArgument("invalid manifest: both an index and an image")  # CVE-2021-41190
    subject = Descriptor.parse(value["subject"]) if value.get("subject") else None
    artifact_type = str(value.get("artifactType") or "")
    annotations = _object(value, "annotations")
    if kind in INDEXES:
        return Index(kind, _descriptors(value, "manifests"), subject, artifact_type, annotations)
    if "config" not in value:
        raise InvalidArgument("invalid manifest: it has no config")
    layers = _descriptors(value, "layers")
    return Manifest(kind, Descriptor.parse(value["config"]), layers, subject, artifact_type, annotations)


def _descriptors(value: dict[str, Any], key: str) -> list[Descriptor]:
    items = value.get(key) or []
    if not isinstance(items, list) or len(items) > MAX_LAYERS:
        raise InvalidArgument(f"invalid manifest: {key} is no list of at most {MAX_LAYERS}")
    return [Descriptor.parse(item) for item in items]


def load_object(data: bytes, what: str) -> dict[str, Any]:
    """Raises InvalidArgument when the bytes are no JSON object."""
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise InvalidArgument(f"invalid {what}: {error}") from error
    if not isinstance(value, dict):
        raise InvalidArgument(f"invalid {what}: not a JSON object")
    return value


def build_manifest(config: bytes, layers: list[Descriptor], annotations: Mapping[str, str] | None = None) -> bytes:
    """A Docker manifest (which every registry and client takes) of a configuration and its layers.

    Args:
        annotations: What Docker's have no place for: with them it is OCI's.
    """
    if annotations:
        return orjson.dumps(
            {
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "config": Descriptor(OCI_CONFIG, digest_of(config), len(config)).to_json(),
                "layers": [_oci_layer(layer).to_json() for layer in layers],
                "annotations": dict(annotations),
            }
        )
    return orjson.dumps(
        {
            "schemaVersion": 2,
            "mediaType": DOCKER_MANIFEST,
            "config": Descriptor(DOCKER_CONFIG, digest_of(config), len(config)).to_json(),
            "layers": [layer.to_json() for layer in layers],
        }
    )


def _oci_layer(layer: Descriptor) -> Descriptor:
    media_type = layer.media_type
    if media_type.startswith(DOCKER_LAYER):
        media_type = OCI_LAYER + media_type.removeprefix(DOCKER_LAYER).replace(".gzip", "+gzip")
    return Descriptor(media_type, layer.digest, layer.size)


def layer_media_type(compression: str) -> str:
    """The media type of a layer in a manifest of ours."""
    if compression == "zstd":
        return OCI_LAYER + "+zstd"
    return DOCKER_LAYER + (".gzip" if compression == "gzip" else "")


# -- configurations ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """An image's configuration; `raw` is the JSON object as it came."""

    raw: dict[str, Any]
    diff_ids: list[str]

    @classmethod
    def parse(cls, data: bytes) -> ImageConfig:
        if len(data) > MAX_CONFIG_BYTES:
            raise InvalidArgument(f"an image configuration of {len(data)} bytes is larger than {MAX_CONFIG_BYTES}")
        value = load_object(data, "image configuration")
        diff_ids = _object(value, "rootfs").get("diff_ids") or []
        if not isinstance(diff_ids, list) or not all(isinstance(item, str) and is_digest(item) for item in diff_ids):
            raise InvalidArgument("invalid image configuration: rootfs.diff_ids is no list of digests")
        if len(diff_ids) > MAX_LAYERS:
            raise InvalidArgument(f"invalid image configuration: more than {MAX_LAYERS} layers")
        return cls(value, diff_ids)

    @property
    def platform(self) -> Platform:
        raw = self.raw
        return Platform(
            str(raw.get("os") or "linux"), str(raw.get("architecture") or ""), str(raw.get("variant") or "")
        )


def chain_ids(diff_ids: list[str]) -> list[str]:
    """The identity of each layer together with all below it, lowest first. Source: image-spec, config.md, ChainID."""
    chains: list[str] = []
    for diff_id in diff_ids:
        chains.append(chain_on(chains[-1] if chains else "", diff_id))
    return chains


def chain_on(parent: str, diff_id: str) -> str:
    """The chain id of a layer on top of another (its chain id; empty for none)."""
    return digest_of(f"{parent} {diff_id}".encode()) if parent else diff_id


# -- platforms --------------------------------------------------------------------------------------------------


def descriptor_platform(descriptor: Descriptor) -> Platform | None:
    """The platform that an index states for an entry; None when it states none."""
    stated = descriptor.platform
    if not stated:
        return None
    return Platform(str(stated.get("os", "")), str(stated.get("architecture", "")), str(stated.get("variant") or ""))


def is_elsewhere(media_type: str) -> bool:
    """Whether a layer need not be where its manifest is: Docker's ``foreign``, OCI's ``nondistributable``."""
    return "foreign" in media_type or "nondistributable" in media_type


def check_image(manifest: Manifest) -> None:
    """Raises InvalidArgument for what is stored as images are and is none: charts, signatures, policies."""
    config = manifest.config.media_type
    if config not in IMAGE_CONFIGS or (manifest.artifact_type and config == EMPTY_CONFIG):
        kind = manifest.artifact_type or config
        raise InvalidArgument(f'unsupported media type "{kind}": it is an artifact and no image', mediaType=kind)


def nested(index: Index, wanted: Platform | None) -> list[Descriptor]:
    """The indexes in an index that may have an image for a platform."""
    platform = wanted or own_platform()
    return [
        item
        for item in index.manifests
        if item.media_type in INDEXES
        and ((stated := descriptor_platform(item)) is None or not stated.os or stated.matches(platform))
    ]


def is_attestation(item: Descriptor) -> bool:
    """Whether an entry of an index says something about an image instead of being one."""
    return item.annotations.get("vnd.docker.reference.type") == "attestation-manifest"


def choose(index: Index, wanted: Platform | None) -> Descriptor:
    """The image of an index for a platform, this machine's own when None.

    Raises:
        NotFound: There is none, in Docker's words.
    """
    platform = wanted or own_platform()
    candidates = [
        (item, stated)
        for item in index.manifests
        if item.media_type not in INDEXES
        and not is_attestation(item)
        and ((stated := descriptor_platform(item)) is None or stated.matches(platform))
    ]
    # An entry that names the variant exactly is better than one that leaves it open.
    candidates.sort(key=lambda pair: pair[1] is None or pair[1].variant != platform.variant)
    if not candidates:
        raise NotFound(f"no matching manifest for {platform} in the manifest list entries")
    return candidates[0][0]
