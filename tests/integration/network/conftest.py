"""Every test here runs in a network namespace of its own, which dies with it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from services.executor.agent.network import NodeNetwork, links, namespace
from services.executor.agent.network.netlink import Netlink
from shared.config import EngineConfig
from tests.conftest import missing
from tests.integration.network.lab import Lab


@pytest.fixture
def netns() -> Iterator[int]:
    """The test's thread, and every thread it starts, in a fresh network namespace with loopback up."""
    if os.geteuid() != 0:
        missing("root")
    with namespace.created() as fd:
        kernel = Netlink()
        kernel.run([links.set_link(1, up=True)])
        kernel.close()
        yield fd
        os.close(fd)


@pytest.fixture
async def node(netns: int, tmp_path: Path) -> AsyncIterator[NodeNetwork]:
    network = NodeNetwork(None, EngineConfig(), "here", tmp_path / "network")
    await network.start()
    yield network
    if not network.closed:
        await network.close()


@pytest.fixture
def lab(node: NodeNetwork) -> Iterator[Lab]:
    lab = Lab(node)
    yield lab
    lab.close()
