"""Control: ``python -m services.executor.control``."""

from __future__ import annotations

import sys

from services.executor.control import bootstrap
from shared import service


def main() -> int:
    return service.run("control", bootstrap.start)


if __name__ == "__main__":
    sys.exit(main())
