"""What can be wrong with a Dockerfile before anything is built."""

from __future__ import annotations

from shared.errors import InvalidArgument


class DockerfileError(InvalidArgument):
    """The file cannot be understood. `line` is where, counted from 1; 0 when no single line is to blame."""

    def __init__(self, message: str, *, line: int = 0) -> None:
        super().__init__(message, field="Dockerfile", line=line)
        self.line = line


def at_line(line: int, message: str) -> DockerfileError:
    return DockerfileError(f"dockerfile parse error line {line}: {message}", line=line)


class SyntaxProblem(Exception):
    """What is wrong with one instruction; whoever knows the line turns it into a `DockerfileError`."""
