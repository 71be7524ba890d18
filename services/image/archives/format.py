"""Image archives: what `docker save`, `docker load` and OCI tools exchange.

A tar with either or both of::

    manifest.json                       Docker: [{"Config", "RepoTags", "Layers"}], paths in the tar
    oci-layout, index.json, blobs/…     OCI image layout

Source: OCI image-spec, image-layout.md; moby image/tarexport.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from services.image.catalog import manifests
from services.image.catalog.manifests import Descriptor, ImageConfig, Index, Manifest
from shared.docker.platforms import own_platform
from shared.docker.references import Reference, parse
from shared.errors import InvalidArgument, NotFound

MANIFEST = "manifest.json"
INDEX = "index.json"
LAYOUT = "oci-layout"
REPOSITORIES = "repositories"
BLOBS = "blobs/sha256/"
NAME_ANNOTATION = "io.containerd.image.name"
REF_ANNOTATION = "org.opencontainers.image.ref.name"
MAX_NESTING = 4
# JSON documents of an archive are kept in memory while it is read; layers are not.
MAX_DOCUMENT_BYTES = manifests.MAX_CONFIG_BYTES


@dataclass(frozen=True, slots=True)
class ArchivedImage:
    """One image of an archive.

    Attributes:
        layers: Paths in the archive, lowest first.
        manifest: The original manifest's bytes, when the archive has one.
        index: The index that the image is part of, when the archive has one.
    """

    config: bytes
    layers: list[str]
    names: list[Reference]
    manifest: bytes | None = None
    index: bytes | None = None

    def is_beside(self, other: ArchivedImage) -> bool:
        """Whether both are of one index, under the same names."""
        return bool(self.index) and (self.index, self.names) == (other.index, other.names)


@dataclass(slots=True)
class Contents:
    """What was found while an archive was read.

    Attributes:
        documents: Small files that look like JSON, by path.
        links: Paths that are links to other paths.
    """

    documents: dict[str, bytes] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)

    def actual(self, path: str) -> str:
        """The path behind links. Raises InvalidArgument for links in a circle."""
        path = posixpath.normpath(path)
        for _ in range(16):
            if path not in self.links:
                return path
            path = self.links[path]
        raise InvalidArgument(f"invalid archive: {path} is a link in a circle")

    def document(self, path: str) -> bytes:
        """Raises InvalidArgument when the archive does not have it."""
        data = self.documents.get(self.actual(path))
        if data is None:
            raise InvalidArgument(f"invalid archive: {path} is missing or is no JSON document")
        return data

    def images(self) -> list[ArchivedImage]:
        """The images of the archive, in its order; those of one index after each other.

        Raises:
            InvalidArgument: It is no image archive, or an inconsistent one.
        """
        if MANIFEST in self.documents and not self._has_variants():
            return self._docker_images()
        if INDEX in self.documents:
            return self._oci_images()
        raise InvalidArgument(
            "invalid archive: it has neither manifest.json nor index.json (archives of Docker before 1.10 are not "
            "supported)"
        )

    # -- Docker -------------------------------------------------------------------------------------------------

    def _docker_images(self) -> list[ArchivedImage]:
        try:
            items = orjson.loads(self.documents[MANIFEST])
        except orjson.JSONDecodeError as error:
            raise InvalidArgument(f"invalid manifest.json: {error}") from error
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise InvalidArgument("invalid manifest.json: not a list of images")
        originals = self._original_manifests()
        found = []
        for item in items:
            config_path, layers = item.get("Config"), item.get("Layers") or []
            if not isinstance(config_path, str) or not _are_strings(layers):
                raise InvalidArgument("invalid manifest.json: an image lacks its configuration or layers")
            config = self.document(config_path)
            tags = item.get("RepoTags") or []
            names = [_tagged(tag) for tag in tags] if _are_strings(tags) else []
            manifest = originals.get(manifests.digest_of(config))
            found.append(ArchivedImage(config, [self.actual(path) for path in layers], names, manifest))
        return found

    def _original_manifests(self) -> dict[str, bytes]:
        """Manifests of an archive that is an OCI layout too, by the digest of their configuration."""
        found: dict[str, bytes] = {}
        if INDEX not in self.documents:
            return found
        for descriptor, _ in self._flattened(self._index(self.documents[INDEX]), 0):
            data = self.documents.get(blob_path(descriptor.digest))
            if data is not None and descriptor.media_type in manifests.MANIFESTS:
                manifest = manifests.parse(data, descriptor.media_type)
                if isinstance(manifest, Manifest):
                    found[manifest.config.digest] = data
        return found

    # -- OCI ----------------------------------------------------------------------------------------------------

    def _index(self, data: bytes) -> Index:
        index = manifests.parse(data, manifests.OCI_INDEX)
        if not isinstance(index, Index):
            raise InvalidArgument("invalid index.json: it is no index")
        return index

    def _flattened(self, index: Index, depth: int) -> list[tuple[Descriptor, Descriptor | None]]:
        """Every manifest of an index with the nested index that it is in, those that are in the archive."""
        if depth > MAX_NESTING:
            raise InvalidArgument("invalid archive: indexes are nested too deeply")
        found: list[tuple[Descriptor, Descriptor | None]] = []
        for descriptor in index.manifests:
            data = self.documents.get(blob_path(descriptor.digest))
            if data is None:
                continue
            if descriptor.media_type in manifests.INDEXES:
                found += [(item, descriptor) for item, _ in self._flattened(self._index(data), depth + 1)]
            else:
                found.append((descriptor, None))
        return found

    def _has_variants(self) -> bool:
        """Whether a name of the archive stands for several images, of which manifest.json knows one."""
        if INDEX not in self.documents:
            return False
        named = self._index(self.documents[INDEX]).manifests
        return any(item.media_type in manifests.INDEXES and len(self._variants(item)) > 1 for item in named)

    def _oci_images(self) -> list[ArchivedImage]:
        found = []
        for named in self._index(self.documents[INDEX]).manifests:
            names = _annotated(named.annotations)
            if named.media_type not in manifests.INDEXES:
                found.append(self._oci_image(named, names, None))
                continue
            variants = self._variants(named)
            if not variants:
                raise NotFound(f"the archive has none of the images of {named.digest}")
            index = self.document(blob_path(named.digest))
            found += [self._oci_image(one, names, index) for one in variants]
        return found

    def _oci_image(self, descriptor: Descriptor, names: list[Reference], index: bytes | None) -> ArchivedImage:
        data = self.document(blob_path(descriptor.digest))
        _check_digest(descriptor.digest, data)
        manifest = manifests.parse(data, descriptor.media_type)
        if not isinstance(manifest, Manifest):
            raise InvalidArgument("invalid archive: a manifest is an index")
        config = self.document(blob_path(manifest.config.digest))
        _check_digest(manifest.config.digest, config)
        layers = [self.actual(blob_path(layer.digest)) for layer in manifest.layers]
        return ArchivedImage(config, layers, names, data, index)

    def _variants(self, named: Descriptor) -> list[Descriptor]:
        """The images of an index that are in the archive, this machine's own first; no attestations."""
        data = self.documents.get(blob_path(named.digest))
        if data is None:
            return []
        found = [item for item, _ in self._flattened(self._index(data), 1) if not manifests.is_attestation(item)]
        own = own_platform()
        return sorted(found, key=lambda item: not (manifests.descriptor_platform(item) or own).matches(own))


def _check_digest(digest: str, data: bytes) -> None:
    if manifests.digest_of(data) != digest:
        raise InvalidArgument(f"invalid archive: {digest} has other content")


def _are_strings(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def blob_path(digest: str) -> str:
    """Where an OCI layout has a blob."""
    return BLOBS + digest.removeprefix("sha256:")


def blob_digest(path: str) -> str | None:
    """The digest that a path of an OCI layout promises; None for other paths."""
    if not path.startswith(BLOBS):
        return None
    digest = f"sha256:{path.removeprefix(BLOBS)}"
    return digest if manifests.is_digest(digest) else None


def _tagged(text: str) -> Reference:
    reference = parse(text)
    if reference.tag is None:
        raise InvalidArgument(f"invalid tag {text!r}")
    return reference


def _annotated(annotations: Mapping[str, str]) -> list[Reference]:
    """The name that an index gives an image. A bare tag in the OCI annotation names no repository."""
    for text in (annotations.get(NAME_ANNOTATION), annotations.get(REF_ANNOTATION)):
        if text and (":" in text or "/" in text):
            try:
                return [parse(text).with_default_tag()]
            except InvalidArgument:
                continue
    return []


# -- writing ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SavedImage:
    """An image to write: the bytes of its configuration and manifest, and its layers' descriptors.

    Attributes:
        variants: The images for other platforms under the same names, which then stand for an index.
    """

    id: str
    config: bytes
    manifest: bytes
    layers: list[Descriptor]
    names: list[Reference]
    variants: tuple[SavedImage, ...] = ()

    @property
    def all(self) -> tuple[SavedImage, ...]:
        return (self, *self.variants)

    def descriptor(self) -> dict[str, Any]:
        parsed = manifests.parse(self.manifest)
        return {
            "mediaType": parsed.media_type,
            "digest": manifests.digest_of(self.manifest),
            "size": len(self.manifest),
        }

    def index(self) -> bytes:
        """An index of the image and its variants."""
        items = []
        for one in self.all:
            platform = ImageConfig.parse(one.config).platform
            stated = {"architecture": platform.architecture, "os": platform.os}
            items.append(
                {**one.descriptor(), "platform": stated | ({"variant": platform.variant} if platform.variant else {})}
            )
        return orjson.dumps({"schemaVersion": 2, "mediaType": manifests.OCI_INDEX, "manifests": items})


def documents(images: list[SavedImage]) -> dict[str, bytes]:
    """The JSON files of an archive, by path, in the order in which they are written."""
    entries: list[dict[str, Any]] = []
    index: list[dict[str, Any]] = []
    repositories: dict[str, dict[str, str]] = {}
    files: dict[str, bytes] = {LAYOUT: b'{"imageLayoutVersion":"1.0.0"}'}
    for image in images:
        for one in image.all:
            files[blob_path(one.id)] = one.config
            files[blob_path(manifests.digest_of(one.manifest))] = one.manifest
        descriptor = image.descriptor()
        if image.variants:
            data = image.index()
            descriptor = {"mediaType": manifests.OCI_INDEX, "digest": manifests.digest_of(data), "size": len(data)}
            files[blob_path(descriptor["digest"])] = data
        # Who reads this file knows of one image per name.
        layers = [blob_path(layer.digest) for layer in image.layers]
        tags = [name.familiar for name in image.names]
        entries.append({"Config": blob_path(image.id), "RepoTags": tags or None, "Layers": layers})
        index += [{**descriptor, "annotations": _annotations(name)} for name in image.names] or [descriptor]
        for name in image.names:
            if layers and name.tag:
                top = image.layers[-1].digest.removeprefix("sha256:")
                repositories.setdefault(name.familiar_name, {})[name.tag] = top
    files[INDEX] = orjson.dumps({"schemaVersion": 2, "mediaType": manifests.OCI_INDEX, "manifests": index})
    files[MANIFEST] = orjson.dumps(entries)
    files[REPOSITORIES] = orjson.dumps(repositories)
    return files


def _annotations(name: Reference) -> dict[str, str]:
    return {NAME_ANNOTATION: str(name), REF_ANNOTATION: name.tag or ""}


def fitting_layers(config: ImageConfig, count: int) -> None:
    """Raises InvalidArgument when an image has not as many layers as its configuration says."""
    if len(config.diff_ids) != count:
        raise InvalidArgument(
            f"invalid archive: an image has {count} layers, and its configuration names {len(config.diff_ids)}"
        )
