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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Breaking whole engines takes minutes: these run with --slow."""
    for item in items:
        if item.path.parent.name == "faults":
            item.add_marker(pytest.mark.slow)
