"""What can be asked about a Dockerfile instead of building it."""

from __future__ import annotations

from services.image.buildkit.builds import Build
from services.image.buildkit.options import Options
from shared.errors import Unsupported


async def answer_of(build: Build, options: Options) -> dict[str, bytes]:
    """Raises Unsupported."""
    raise Unsupported(f"unsupported request {options.subrequest}", field="requestid")
