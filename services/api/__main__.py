"""The HTTP edge as a process of its own."""

from __future__ import annotations

import sys


def main() -> int:
    from services.api import bootstrap
    from shared import service

    return service.run("api", bootstrap.start, database=False)


if __name__ == "__main__":
    sys.exit(main())
