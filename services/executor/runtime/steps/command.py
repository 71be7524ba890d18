"""The container's command: found the way a shell finds it, refused in the words that Docker's clients know.

The texts decide the exit code of `docker run`: 127 for what is not there, 126 for what may not run.
"""

from __future__ import annotations

import errno
import os
import stat

from services.executor.runtime.errors import CommandFailure


def find(name: str, environment: dict[str, str]) -> str:
    """The path to execute. A name with a slash is a path; any other is searched in the container's own PATH.

    Raises:
        CommandFailure: not found, no permission, a directory.
    """
    if "/" in name:
        _check(name, name)
        return name
    if name:
        for directory in environment.get("PATH", "").split(":"):
            candidate = os.path.join(directory or ".", name)
            try:
                _check(candidate, name)
            except CommandFailure:
                continue
            return candidate
    raise CommandFailure(f'exec: "{name}": executable file not found in $PATH', step="exec", errno=errno.ENOENT)


def _check(path: str, name: str) -> None:
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        raise CommandFailure(f'exec: "{name}": stat {path}: {reason}', step="exec", errno=error.errno) from None
    if stat.S_ISDIR(mode) or not mode & 0o111 or not os.access(path, os.X_OK, effective_ids=True):
        raise CommandFailure(f'exec: "{name}": permission denied', step="exec", errno=errno.EACCES)


def execute(path: str, args: list[str], environment: dict[str, str]) -> None:
    """execve(2); returns only by raising.

    Raises:
        CommandFailure: the kernel refused the file.
    """
    try:
        os.execve(path, args, environment)
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        raise CommandFailure(f"exec {path}: {reason}", step="exec", errno=error.errno) from None
    except ValueError as error:
        raise CommandFailure(f"exec {path}: {error}", step="exec", errno=errno.EINVAL) from None
