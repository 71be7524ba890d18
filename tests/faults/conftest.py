"""Fault tests each have an engine of their own: they break it on purpose."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.conftest import require_root
from tests.lab.engine import Engine


@pytest.fixture
def engine() -> Iterator[Engine]:
    require_root()
    with Engine() as one:
        one.import_busybox()
        yield one
