"""An image's layers as one directory, for reading."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from services.executor.agent.containers.failures import translated
from services.executor.runtime.steps.rootfs import Overlay


@contextmanager
def image_view(lower: list[str]) -> Iterator[Path]:
    """An image's layers together, topmost first, read-only."""
    if len(lower) == 1:
        yield Path(lower[0])
        return
    with translated():
        mounted = Overlay({"lower": lower}).detached()
    try:
        yield Path(f"/proc/self/fd/{mounted}")
    finally:
        os.close(mounted)
