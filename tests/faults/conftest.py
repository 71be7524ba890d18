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
        # Stopping politely takes ten seconds for a `sleep`.
        if ids := one.docker("ps", "-aq", check=False).stdout.split():
            one.docker("rm", "-f", *ids, check=False)


# What takes less than a minute, and is the promise itself.
BY_DEFAULT = (
    "test_kills_leave_no_gap_no_double_and_no_effect_without_a_record[10]",
    "test_every_process_can_be_killed",
    "test_an_engine_without_its_directories_goes_and_leaves_its_containers[None]",
    "test_a_new_engine_in_the_place_of_one_that_runs_is_left_alone",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Breaking whole engines takes minutes: most of these run with --slow."""
    for item in items:
        if item.path.parent.name == "faults" and item.name not in BY_DEFAULT:
            item.add_marker(pytest.mark.slow)
