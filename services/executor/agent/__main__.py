"""The agent of this node: ``python -m services.executor.agent``."""

from __future__ import annotations

import sys

from services.executor.agent import bootstrap
from shared import service


def main() -> int:
    return service.run("agent", bootstrap.start, database=False)


if __name__ == "__main__":
    sys.exit(main())
