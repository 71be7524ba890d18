"""What an order may take along."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.executor.agent.shims.zygote import Zygote
from services.executor.runtime.errors import InvalidSpec
from services.executor.runtime.launch.zygote import MOST_FDS


async def test_more_clients_than_descriptors_can_be_sent_are_refused(tmp_path: Path) -> None:
    zygote = Zygote(tmp_path)
    with pytest.raises(InvalidSpec, match="attach: 240 clients are too many to attach to a start"):
        await zygote.launch({"attach": [{}] * MOST_FDS}, [0] * MOST_FDS)
    assert zygote.pid == 0, "it was not even asked"
