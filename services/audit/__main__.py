"""``python -m services.audit``: the audit service as a process of its own."""

from __future__ import annotations

import sys

from services.audit import bootstrap
from shared import service


def main() -> int:
    return service.run("audit", bootstrap.start)


if __name__ == "__main__":
    sys.exit(main())
