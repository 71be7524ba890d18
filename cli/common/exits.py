"""How commands end. The codes are documented in docs/guide/command-line.md."""

from __future__ import annotations

OK = 0
FAILURE = 1
USAGE = 2  # click's own
NOT_RUNNING = 3  # `davit status` without an engine, as systemctl and LSB init scripts say it
CONFIGURATION = 78  # EX_CONFIG of sysexits.h: trying again without changing something is of no use
ENGINE_REFUSED = 125  # `davit run` without a container, as `docker run` ends
INTERRUPTED = 130
READER_GONE = 141


class CommandFailed(Exception):
    """Ends the command with a sentence and an exit code."""

    def __init__(self, message: str, code: int = FAILURE) -> None:
        super().__init__(message)
        self.code = code
