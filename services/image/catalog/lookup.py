"""How what a client wrote becomes a key to look up, and what it hears when there is nothing."""

from __future__ import annotations

from services.image.catalog.domain import platform_of
from services.image.sql.catalog import Reader
from services.image.sql.images import Found
from services.image.sql.names import name_of
from shared.docker.platforms import Platform
from shared.docker.references import Reference, id_prefix, is_whole_id, parse
from shared.errors import InvalidArgument, NotFound


def as_reference(text: str) -> Reference | None:
    """The text as a reference with tag or digest; None when it can only be an id.

    Raises:
        InvalidArgument: It is neither, in Docker's words.
    """
    if is_whole_id(text):
        return None
    try:
        return parse(text).with_default_tag()
    except InvalidArgument:
        if id_prefix(text):
            return None
        raise


def no_such_image(text: str, reference: Reference | None) -> NotFound:
    """Docker's words: with the tag that was looked for, unless it may have been an id."""
    shown = reference.familiar if reference is not None else text
    if is_whole_id(text) and ":" not in text:
        shown = f"sha256:{text}"
    return NotFound(f"No such image: {shown}", image=text)


def check_platform(actual: Platform, text: str, wanted: Platform | None) -> None:
    """Raises NotFound, in Docker's words, when an image is for another platform than the one asked for."""
    if wanted is not None and not actual.matches(wanted):
        raise NotFound(
            f"image with reference {text} was found but does not match the specified platform: wanted {wanted}, "
            f"actual: {actual}",
            image=text,
            platform=str(wanted),
        )


async def find_for(reader: Reader, text: str, platform: Platform | None) -> Found:
    """The image that a text names, for a platform; without one, the one that is meant.

    Raises:
        NotFound: In Docker's words.
    """
    reference = as_reference(text)
    found = await reader.find(reference, text)
    if found is None:
        raise no_such_image(text, reference)
    if platform is None:
        return found
    actual = platform_of(found.image())
    if not actual.matches(platform) and reference is not None:
        for variant in await reader.variants(name_of(reference)):
            other = await reader.by_id(variant.image_id)
            if other is not None and platform_of(other.image()).matches(platform):
                return other
    check_platform(actual, text, platform)
    return found
