"""``python -m services.volume``: the volume service as a process of its own."""

from __future__ import annotations

import sys

from services.volume import bootstrap
from shared import service


def main() -> int:
    return service.run("volume", bootstrap.start)


if __name__ == "__main__":
    sys.exit(main())
