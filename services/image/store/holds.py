"""Images that a container may just be being created from: they are not deleted for a moment.

A mark is a file, so that every copy of the service that shares the store sees it; its age is what counts.

::

    <data>/images/held/<hex>
"""

from __future__ import annotations

import time
from pathlib import Path

from shared.contracts.images import RESOLVED_FOR_S
from shared.errors import Unavailable

# The kernel's clock of file times ticks up to this late.
CLOCK_TICK_S = 0.05


class Holds:
    """Marks by image id. The calls are short enough for an event loop."""

    def __init__(self, root: Path) -> None:
        self._root = root / "held"

    def hold(self, image_id: str) -> None:
        """Keep an image for as long as its resolution counts. Raises Unavailable when the disk is full."""
        path = self._path(image_id)
        try:
            try:
                path.touch(mode=0o600)
            except FileNotFoundError:
                self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
                path.touch(mode=0o600)
        except OSError as error:
            raise Unavailable(f"image {image_id} cannot be held: {error.strerror}") from error

    def left_s(self, image_id: str) -> float:
        """Seconds for which an image is still held; 0 when it is not."""
        try:
            age_s = time.time() - self._path(image_id).stat().st_mtime
        except FileNotFoundError:
            return 0.0
        return max(0.0, RESOLVED_FOR_S + CLOCK_TICK_S - age_s)

    def forget(self, image_id: str) -> None:
        """The image is deleted."""
        self._path(image_id).unlink(missing_ok=True)

    def _path(self, image_id: str) -> Path:
        return self._root / image_id.removeprefix("sha256:")
