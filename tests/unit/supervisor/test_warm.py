"""What is done before the fork, so that no service has to do it in memory of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

WARM_UP = """
import gc
gc.freeze = lambda: None  # frozen objects cannot be listed
from supervisor import warm
from shared.config import EngineConfig
from shared.state.statements import Prepared

warm.warm_up(EngineConfig.model_validate({"database-url": %r}), list(warm.ENTRIES))
statements = [found for found in gc.get_objects() if isinstance(found, Prepared)]
assert len(statements) > 100, len(statements)
for found in statements:
    if not found._compiled:
        print(found.statement)
"""


@pytest.mark.parametrize("database", ["", "postgresql://localhost/davit"])
def test_no_statement_is_left_to_compile(database: str) -> None:
    """Compiling one in a service takes longer than the query, and unshares some megabytes for good."""
    done = subprocess.run([sys.executable, "-c", WARM_UP % database], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
