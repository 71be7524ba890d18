"""``python -m services.network``: the network service as a process of its own."""

from __future__ import annotations

import sys

from services.network import bootstrap
from shared import service


def main() -> int:
    return service.run("network", bootstrap.start)


if __name__ == "__main__":
    sys.exit(main())
