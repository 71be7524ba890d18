"""What an image is, made from its configuration: records, listings, histories, removals. No I/O.

Source: Docker Engine API 1.50, ImageInspect, ImageSummary, ImageHistory, ImageDelete.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from services.image.catalog.manifests import ImageConfig, chain_ids
from shared.contracts.docker import ContainerConfig
from shared.contracts.images import HistoryEntry, Image, ResolvedImage
from shared.docker.moments import SECOND_NS, parse_rfc3339_ns
from shared.docker.platforms import Platform
from shared.docker.references import Reference, parse
from shared.errors import Conflict, InvalidArgument

SHORT_ID = 12
MISSING = "<missing>"


@dataclass(frozen=True, slots=True)
class LayerRecord:
    """An unpacked layer and the blob it came from.

    Attributes:
        parent: Chain id of the layer below; empty for the lowest.
        blob, media_type, blob_bytes: What the layer is fetched, saved and unpacked again from.
        size_bytes: Bytes of its files.
    """

    chain_id: str
    diff_id: str
    parent: str
    blob: str
    media_type: str
    blob_bytes: int
    size_bytes: int

    def row(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """An image to store.

    Attributes:
        image: Without names.
        layers: Lowest first.
        content: Digests of everything that belongs to it besides its layers' blobs: configuration, manifest, index.
        cache_key: Of the build step that made it.
    """

    image: Image
    layers: Sequence[LayerRecord]
    content: Sequence[str]
    cache_key: str = ""

    def document(self) -> str:
        return self.image.model_dump_json(by_alias=True, exclude_defaults=True)

    def resolved(self) -> str:
        return ResolvedImage(
            id=self.image.id,
            config=self.image.config,
            layers=[layer.chain_id for layer in self.layers],
            os=self.image.os,
            architecture=self.image.architecture,
        ).model_dump_json(by_alias=True, exclude_defaults=True)


@dataclass(frozen=True, slots=True)
class Name:
    """A tag, or a digest under which an image is known in a repository."""

    name: str
    repository: str
    is_digest: bool
    image_id: str

    @property
    def reference(self) -> Reference:
        return parse(self.name)

    @property
    def familiar(self) -> str:
        return self.reference.familiar


def short(image_id: str) -> str:
    return image_id.removeprefix("sha256:")[:SHORT_ID]


# How the cache keys of steps begin that are no images to anybody.
CACHE_ONLY = "bk-"


def make_record(
    image_id: str,
    config: ImageConfig,
    layers: Sequence[LayerRecord],
    *,
    manifest_digest: str,
    content: Sequence[str] = (),
    parent: str = "",
    cache_key: str = "",
) -> ImageRecord:
    """The record of an image from its configuration.

    Raises:
        InvalidArgument: The configuration does not fit its layers, or has values of the wrong type.
    """
    if chain_ids(config.diff_ids) != [layer.chain_id for layer in layers]:
        raise InvalidArgument("invalid image configuration: rootfs.diff_ids does not match the layers")
    raw = config.raw
    try:
        container_config = ContainerConfig.model_validate(raw.get("config") or {})
    except ValueError as error:
        raise InvalidArgument(f"invalid image configuration: {error}") from error
    created = _text(raw, "created")
    image = Image(
        id=image_id,
        parent=parent,
        comment=_text(raw, "comment") or _last_comment(raw),
        created=created,
        created_unix=unix_time(created),
        author=_text(raw, "author"),
        docker_version=_text(raw, "docker_version"),
        config=container_config,
        architecture=_text(raw, "architecture"),
        variant=_text(raw, "variant"),
        os=_text(raw, "os") or "linux",
        os_version=_text(raw, "os.version"),
        size_bytes=sum(layer.size_bytes for layer in layers),
        diff_ids=config.diff_ids,
        chain_ids=[layer.chain_id for layer in layers],
        manifest_digest=manifest_digest,
    )
    return ImageRecord(image, layers, [image_id, manifest_digest, *content], cache_key)


def _text(raw: Mapping[str, Any], key: str) -> str:
    value = raw.get(key)
    return value if isinstance(value, str) else ""


def _last_comment(raw: Mapping[str, Any]) -> str:
    history = raw.get("history")
    last = history[-1] if isinstance(history, list) and history else None
    return _text(last, "comment") if isinstance(last, dict) else ""


def unix_time(text: str) -> int:
    """Seconds since the epoch of an RFC 3339 time; 0 for none or an invalid one."""
    try:
        return parse_rfc3339_ns(text) // SECOND_NS
    except ValueError:
        return 0


def with_names(image: Image, names: Iterable[Name], last_tag_ns: int = 0) -> Image:
    """The image as it is shown: with its tags and digests."""
    tags = sorted(name.familiar for name in names if not name.is_digest)
    digests = sorted(name.familiar for name in names if name.is_digest)
    return image.model_copy(update={"repo_tags": tags, "repo_digests": digests, "last_tag_time_ns": last_tag_ns})


def platform_of(image: Image) -> Platform:
    return Platform(image.os, image.architecture, image.variant)


# -- history ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ancestor:
    """An image that another was built from, with its names."""

    id: str
    tags: list[str] = field(default_factory=list)


def history(raw: Mapping[str, Any], layer_bytes: Sequence[int], ancestors: Sequence[Ancestor]) -> list[HistoryEntry]:
    """The steps that made an image, newest first.

    Args:
        raw: Its configuration.
        layer_bytes: Sizes of its layers, lowest first.
        ancestors: The image itself, then its parent, and so on, as far as they are here.
    """
    steps = raw.get("history")
    steps = [step for step in steps if isinstance(step, dict)] if isinstance(steps, list) else []
    sizes = list(layer_bytes)
    entries = []
    for step in steps:
        size = 0
        if not step.get("empty_layer"):
            size = sizes.pop(0) if sizes else 0
        entries.append(
            HistoryEntry(
                id=MISSING,
                created_unix=unix_time(_text(step, "created")),
                created_by=_text(step, "created_by"),
                comment=_text(step, "comment"),
                size_bytes=size,
            )
        )
    entries.reverse()
    for entry, ancestor in zip(entries, ancestors, strict=False):
        entry.id = ancestor.id
        entry.tags = ancestor.tags
    return entries


# -- removal ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class User:
    """A container that uses an image."""

    container_id: str
    running: bool


def is_single_reference(names: Sequence[Name]) -> bool:
    """Whether an image has at most one tag and all its names are in one repository."""
    return sum(not name.is_digest for name in names) <= 1 and len({name.repository for name in names}) <= 1


def check_untag(text: str, image_id: str, names: Sequence[Name], users: Sequence[User], *, force: bool) -> None:
    """Raises Conflict when removing a name would leave an image that containers use without one."""
    if not force and is_single_reference(names) and users:
        raise Conflict(
            f'conflict: unable to remove repository reference "{text}" (must force) - container '
            f"{users[0].container_id[:SHORT_ID]} is using its referenced image {short(image_id)}"
        )


def check_delete(
    image_id: str,
    *,
    children: Sequence[str],
    users: Sequence[User],
    names: Sequence[Name],
    force: bool,
    ignore_names: bool = False,
) -> None:
    """Raises Conflict, in Docker's words, when an image must not be deleted.

    Args:
        force: Ignore what may be forced: names, and stopped containers.
        ignore_names: The caller removes the names.
    """

    def refuse(how: str, why: str) -> None:
        raise Conflict(f"conflict: unable to delete {short(image_id)} ({how}) - {why}", used=bool(users))

    if children:
        refuse("cannot be forced", "image has dependent child images")
    for user in users:
        if user.running:
            refuse("cannot be forced", f"image is being used by running container {user.container_id[:SHORT_ID]}")
    if force:
        return
    if names and not ignore_names:
        refuse("must be forced", "image is referenced in multiple repositories")
    if users:
        refuse("must be forced", f"image is being used by stopped container {users[0].container_id[:SHORT_ID]}")
