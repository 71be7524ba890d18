"""Image references as Docker reads and shows them.

::

    reference  := name [ ":" tag ] [ "@" digest ]
    name       := [ domain "/" ] component { "/" component }
    busybox            -> docker.io/library/busybox:latest   shown as busybox:latest
    ghcr.io/a/b@sha256:… -> ghcr.io/a/b@sha256:…

Source: distribution/reference, grammar and "normalized named"; Docker CLI reference, "docker image tag".
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from shared.errors import InvalidArgument

DEFAULT_DOMAIN = "docker.io"
LEGACY_DOMAIN = "index.docker.io"
OFFICIAL = "library/"
DEFAULT_TAG = "latest"
MAX_NAME = 255

_ALNUM = r"[a-z0-9]+"
_COMPONENT = rf"{_ALNUM}(?:(?:\.|_|__|-+){_ALNUM})*"
_DOMAIN_PART = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = rf"(?:{_DOMAIN_PART}(?:\.{_DOMAIN_PART})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_DIGEST = r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}"

_REFERENCE = re.compile(
    rf"(?P<name>(?:{_DOMAIN}/)?{_COMPONENT}(?:/{_COMPONENT})*)(?::(?P<tag>{_TAG}))?(?:@(?P<digest>{_DIGEST}))?",
    re.ASCII,
)
_TAG_ONLY = re.compile(_TAG, re.ASCII)
_PATH = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*", re.ASCII)
_HEX_ID = re.compile(r"[a-f0-9]{64}")
_SHORT_ID = re.compile(r"(?:sha256:)?[a-f0-9]{1,64}")
SHA256 = re.compile(r"sha256:[a-f0-9]{64}")

INVALID = "invalid reference format"


@dataclass(frozen=True, slots=True)
class Reference:
    """A normalised reference: the domain is always there, and so is ``library/`` on the default one."""

    domain: str
    path: str
    tag: str | None = None
    digest: str | None = None

    @property
    def name(self) -> str:
        """The repository, whole: ``docker.io/library/busybox``."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar_name(self) -> str:
        """The repository as Docker shows it: ``busybox``."""
        if self.domain != DEFAULT_DOMAIN:
            return self.name
        path = self.path
        return path[len(OFFICIAL) :] if path.startswith(OFFICIAL) and "/" not in path[len(OFFICIAL) :] else path

    @property
    def familiar(self) -> str:
        """The whole reference as Docker shows it: ``busybox:latest``."""
        return self.familiar_name + self._suffix()

    def __str__(self) -> str:
        return self.name + self._suffix()

    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    @property
    def is_name_only(self) -> bool:
        return self.tag is None and self.digest is None

    def with_default_tag(self) -> Reference:
        """The reference with ``latest`` where it names neither tag nor digest."""
        return replace(self, tag=DEFAULT_TAG) if self.is_name_only else self

    def with_tag(self, tag: str) -> Reference:
        """Raises InvalidArgument when the tag has characters that tags cannot have."""
        if not _TAG_ONLY.fullmatch(tag):
            raise InvalidArgument("invalid tag format", field="tag")
        return replace(self, tag=tag, digest=None)

    def with_digest(self, digest: str) -> Reference:
        return replace(self, tag=None, digest=digest)


def check_nameable(reference: Reference) -> None:
    """Raises InvalidArgument for a name that would be read as a digest: ``sha256:…``."""
    if reference.familiar_name == "sha256":
        raise InvalidArgument("refusing to create an ambiguous tag using digest algorithm as name", field="repo")


def parse(text: str) -> Reference:
    """The reference that a client wrote, normalised; without a default tag.

    Raises:
        InvalidArgument: In Docker's words.
    """
    if _HEX_ID.fullmatch(text):
        raise InvalidArgument(
            f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings", field="reference"
        )
    domain, rest = _split_domain(text)
    path = re.split(r"[:@]", rest, maxsplit=1)[0]
    if path != path.lower():
        raise InvalidArgument(f"{INVALID}: repository name ({path}) must be lowercase", field="reference")
    match = _REFERENCE.fullmatch(f"{domain}/{rest}")
    if match is None or not _PATH.fullmatch(path):
        raise InvalidArgument(INVALID, field="reference")
    if len(path) > MAX_NAME:
        raise InvalidArgument(f"repository name must not be more than {MAX_NAME} characters", field="reference")
    digest = match["digest"]
    if digest is not None and not _supported_digest(digest):
        raise InvalidArgument(f"{INVALID}: unsupported digest {digest}", field="reference")
    return Reference(domain, path, match["tag"], digest)


def _split_domain(text: str) -> tuple[str, str]:
    """Docker's rule: the part before the first slash is a domain if it looks like one, or is ``localhost``."""
    first, slash, rest = text.partition("/")
    if not slash or not (re.search(r"[.:]", first) or first == "localhost" or first != first.lower()):
        domain, rest = DEFAULT_DOMAIN, text
    else:
        domain = DEFAULT_DOMAIN if first == LEGACY_DOMAIN else first
    if domain == DEFAULT_DOMAIN and "/" not in rest:
        rest = OFFICIAL + rest
    return domain, rest


def _supported_digest(digest: str) -> bool:
    algorithm, _, value = digest.partition(":")
    lengths = {"sha256": 64, "sha384": 96, "sha512": 128}
    return len(value) == lengths.get(algorithm) and value == value.lower()


def id_prefix(text: str) -> str | None:
    """The hexadecimal digits of a text that may be an image id or its beginning; None when it cannot be one."""
    return text.removeprefix("sha256:") if _SHORT_ID.fullmatch(text) else None


def is_whole_id(text: str) -> bool:
    """Whether a text is a complete image id, with or without its algorithm."""
    return len(id_prefix(text) or "") == 64
