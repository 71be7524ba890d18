"""The image service: ``python -m services.image``."""

from __future__ import annotations

import sys

from services.image import bootstrap
from shared import service


def main() -> int:
    return service.run("image", bootstrap.start)


if __name__ == "__main__":
    sys.exit(main())
