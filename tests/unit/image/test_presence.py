"""Which copies of the service are alive is seen by others, also after kill -9."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from services.image.store.presence import Presence

OTHER = """
import sys, time
from pathlib import Path
from services.image.store.presence import Presence
presence = Presence(Path(sys.argv[1]))
presence.begin()
print(presence.token, flush=True)
time.sleep(60)
"""


def test_a_copy_counts_as_alive_until_it_ends(tmp_path: Path) -> None:
    ours = Presence(tmp_path)
    ours.begin()
    process = subprocess.Popen([sys.executable, "-c", OTHER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    token = process.stdout.readline().strip()
    assert not ours.is_dead(token)
    ours.tidy()
    assert not ours.is_dead(token)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    ours.tidy()
    assert [path.name for path in (tmp_path / "alive").iterdir()] == [ours.token]
    assert ours.is_dead(token)
    assert not ours.is_dead(ours.token)
