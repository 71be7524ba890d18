"""How what a client wrote becomes a key to look up, and what it hears when there is nothing."""

from __future__ import annotations

from services.image.manifests import Platform
from services.image.references import Reference, id_prefix, is_whole_id, parse
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
        )
