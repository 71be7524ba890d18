"""What a killed writer leaves is removed, once nobody holds it any more."""

from __future__ import annotations

import subprocess
from pathlib import Path

from shared.layers.store import LayerStore


def test_what_a_child_of_a_dead_writer_holds_is_removed_later(tmp_path: Path) -> None:
    store = LayerStore(tmp_path)
    store.prepare()
    staged = store.stage_files()
    child = subprocess.Popen(["sleep", "60"], pass_fds=(staged._lock,))
    staged.close()  # as the end of the process does
    try:
        assert store.remove_abandoned() == 1
        assert staged.directory.exists()
    finally:
        child.kill()
        child.wait()
    assert store.remove_abandoned() == 0
    assert not staged.directory.exists()
