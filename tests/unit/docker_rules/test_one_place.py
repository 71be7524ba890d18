"""Docker's small rules are written once: what looks like another copy of one is found here.

The runtime has its own where it must, since it imports the standard library only; other tests hold those equal.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
ROOMS = ("cli", "supervisor", "services", "shared")
HOME = ROOT / "shared/docker"
RUNTIME = ROOT / "services/executor/runtime"

# rule -> what a copy of it looks like
COPIES = {
    "RFC 3339": r"%Y-%m-%dT|\.isoformat\(|\.fromisoformat\(",
    "truth words": r"[\"']True[\"'],|[\"']TRUE[\"']",
    "sizes": r"kmgt",
    "durations": r"[\"'](?:µs|us)[\"']:",
    "label filters": r"def _?(?:has|matches)_labels?\(|def _label_matches\(",
    "stream frames": r">BxxxI|0, 0, 0\]|\[4:8\]|b\"\\0\\0\\0\"",
    "null": r"def _none_to",
}
# What is something else, with its reason.
OTHERS = {
    "cli/events.py": "events are shown in local time",
}


def sources() -> list[Path]:
    found = [path for room in ROOMS for path in (ROOT / room).rglob("*.py") if (ROOT / room).is_dir()]
    return [path for path in found if HOME not in path.parents and RUNTIME not in path.parents]


@pytest.mark.parametrize("rule", COPIES)
def test_there_is_one_copy(rule: str) -> None:
    pattern = re.compile(COPIES[rule])
    files = sources()
    assert len(files) > 200
    copies = {
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in files
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if pattern.search(line) and str(path.relative_to(ROOT)) not in OTHERS
    }
    assert not copies
