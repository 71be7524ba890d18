"""The process that serves builds: ``python -m services.image.buildkit``, started when a client connects."""

from __future__ import annotations

import sys

from shared import service


def main() -> int:
    from services.image.buildkit import bootstrap

    return service.run("image", bootstrap.start)


if __name__ == "__main__":
    sys.exit(main())
