"""The command line of another OCI runtime: called, waited for, its errors read from its log.

Source: runc(8) and its pages of the commands used here.
"""

from __future__ import annotations

import os

from services.executor.runtime import jsonlite
from services.executor.runtime.errors import ForeignFailure
from services.executor.runtime.kernel import calls as kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
_MOST_LOG_BYTES = 1 << 16


class Runtime:
    """A runtime's command line for one container.

    Args:
        order: its key "runtime" is {"path", "args": [before the command], "root": where it keeps state, "directory":
            of the container, for its files}. A terminal needs "socket" too: its own socket is beside that.
    """

    __slots__ = ("_args", "_path", "console", "container_id", "directory", "name", "root")

    def __init__(self, order: dict[str, Any]) -> None:
        wanted = order["runtime"]
        self.container_id: str = order["id"]
        self.root: str = wanted["root"]
        self.directory: str = wanted["directory"]
        self.console = os.path.splitext(order.get("socket") or "")[0] + ".tty"
        self.name = f"exec-{order['exec_id'][:16]}" if "exec_id" in order else "init"
        self._path: str = wanted["path"]
        self._args: list[str] = list(wanted.get("args") or [])

    def file(self, kind: str) -> str:
        """Where a file for the talk with the runtime is: the pid file, its log."""
        return os.path.join(self.directory, f"{self.name}.{kind}")

    def call(self, *words: str, streams: tuple[int, int, int] | None = None, blame: str = "") -> None:
        """Run a command to its end.

        Args:
            streams: its standard descriptors, which the container inherits; None for ours.
            blame: the container's command: a failure that names it is its fault (see `ForeignFailure.exit_code`).

        Raises:
            ForeignFailure: with what the runtime has to say.
        """
        log = self.file("log")
        remove(log)
        argv = [self._path, *self._args, "--root", self.root, "--log", log, "--log-format", "json", *words]
        reader, writer = os.pipe2(os.O_CLOEXEC)
        us = os.getpid()
        pid = os.fork()
        if pid == 0:
            _execute(argv, streams or (0, 1, 2), us, writer)
        os.close(writer)
        with open(reader, "rb") as pipe:
            number = int(pipe.read() or b"0")  # ends with execve
        _, status = os.waitpid(pid, 0)
        if number:
            raise ForeignFailure(f"fork/exec {self._path}: {os.strerror(number).lower()}", errno=number)
        code = os.waitstatus_to_exitcode(status)
        said = _last_error(log) if code else ""
        remove(log)
        if code:
            how = f"exit status {code}" if code > 0 else f"signal {-code}"
            raise ForeignFailure.of(said or f"{self._path} {words[0]}: {how}", blame)

    def delete(self) -> None:
        """Remove the container, killing what is left of it; fine when there is none."""
        if os.path.exists(os.path.join(self.root, self.container_id)):
            self.call("delete", "--force", self.container_id)


def _execute(argv: list[str], streams: tuple[int, int, int], parent: int, failed: int) -> NoReturn:
    """Become the runtime; it ends with its parent, since nobody else knows what it makes."""
    try:
        kernel.set_parent_death_signal(9)
        if os.getppid() != parent:
            os._exit(1)
        for target, fd in enumerate(streams):
            os.dup2(fd, target)
        kernel.close_from(3, on_exec=True)
        kernel.restore_signals()  # what a shim ignores a container must not
        os.execve(argv[0], argv, _ENVIRONMENT)
    except OSError as error:
        os.write(failed, str(error.errno).encode())
    finally:
        os._exit(127)


def remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


def _last_error(log: str) -> str:
    """The message of the last error in a runtime's JSON log, or "" when it wrote none."""
    try:
        with open(log, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - _MOST_LOG_BYTES))
            lines = file.read(_MOST_LOG_BYTES).splitlines()
    except FileNotFoundError:
        return ""
    for line in reversed(lines):
        try:
            entry = jsonlite.loads(line)
        except jsonlite.InvalidJson:
            continue
        if isinstance(entry, dict) and entry.get("level") in {"error", "fatal"} and entry.get("msg"):
            return str(entry["msg"])
    return ""
