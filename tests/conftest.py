"""What every test may use, and the check that the whole run has left nothing behind.

A missing daemon, root or kernel feature is a named skip on a laptop, and a failure in continuous integration.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import NoReturn

import pytest

from tests.lab import leftovers

SETTLE_S = 10.0


def missing(what: str) -> NoReturn:
    """Skip for want of something; fail in continuous integration, which is to have everything."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} is missing")
    pytest.skip(f"{what} is missing")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--slow"):
        return
    skip = pytest.mark.skip(reason="slow: run with --slow")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)


def pytest_configure(config: pytest.Config) -> None:
    os.environ[leftovers.MARK] = str(os.getpid())


@pytest.fixture(scope="session", autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    """Fails the run when it leaves a process, or a file beside the sources; in continuous integration, where it is
    alone, also when it leaves a mount, control group, link, network namespace or nft table."""
    whole_machine = os.geteuid() == 0 and bool(os.environ.get("CI"))
    before = leftovers.inventory(whole_machine=whole_machine)
    yield
    give_up_at = time.monotonic() + SETTLE_S
    while True:
        after = leftovers.inventory(whole_machine=whole_machine)
        left = {kind: sorted(found - before[kind]) for kind, found in after.items() if found - before[kind]}
        if not left:
            return
        if time.monotonic() > give_up_at:
            pytest.fail(f"the run left behind: {left}")
        time.sleep(0.2)
