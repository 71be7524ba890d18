"""Filling the heap's holes: what is allocated afterwards lies together."""

from __future__ import annotations

import os
import subprocess
import sys

# In an interpreter of its own: the filling is never given back. Prints how many pages 2,000 objects of 64 bytes lie on.
SCRIPT = """
import sys
from supervisor import holes

kept = [bytes(64 - 33) for _ in range(200_000)]
sparse = kept[::50]
del kept
if sys.argv[1] == "fill":
    holes.fill()
    assert len(holes._filling) < 300_000
print(len({id(one) // 4096 for one in [bytes(64 - 33) for _ in range(2000)]}))
"""


def pages(how: str) -> int:
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, how], env=os.environ, capture_output=True, text=True, check=True, timeout=60
    )
    return int(run.stdout)


def test_new_objects_lie_side_by_side() -> None:
    assert pages("fill") <= 40  # 2,000 × 64 bytes are 32 pages
    assert pages("leave") > 32
