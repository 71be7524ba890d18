"""davit-runc: the runtime with runc's command line.

Options, outputs, exit codes and the log's format are runc's, so that engines can use either; what is kept under --root
is our own. Each command's module is imported when it is called: a start is short, and imports are most of it.
"""

from __future__ import annotations

import os
import sys
import time

from services.executor.runtime import jsonlite, selfexe
from services.executor.runtime.commands.options import Option, UsageError, parse, usage
from services.executor.runtime.errors import RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

VERSION = "0.1.0"
SPEC_VERSION = "1.2.0"
_EXEC_FAILED = 255
#: commands whose children run in containers
_MAKING = frozenset({"create", "run", "exec"})

GLOBAL_OPTIONS = (
    Option("debug", "flag", "enable debug logging"),
    Option("log", "text", "set the log file to write logs to (default: stderr)", ""),
    Option("log-format", "text", "set the log format ('text' or 'json')", "text"),
    Option("root", "text", "root directory for storage of container state", ""),
    Option("criu", "text", "accepted for compatibility; checkpoint and restore are not supported", ""),
    Option("systemd-cgroup", "flag", "enable systemd cgroup support, expects cgroupsPath of form slice:prefix:name"),
    Option("rootless", "text", "ignore cgroup permission errors ('true', 'false', or 'auto')", "auto"),
    Option("help h", "flag", "show help"),
    Option("version v", "flag", "print the version"),
)

#: name -> (module, function, options' name in it, arguments, help)
COMMANDS: dict[str, tuple[str, str, str | None, str, str]] = {
    "create": ("lifecycle", "create", "CREATE_OPTIONS", "<container-id>", "create a container"),
    "run": ("lifecycle", "run", "RUN_OPTIONS", "<container-id>", "create and run a container"),
    "start": ("lifecycle", "start", None, "<container-id>", "executes the user defined process in a created container"),
    "state": ("lifecycle", "show_state", None, "<container-id>", "output the state of a container"),
    "kill": ("lifecycle", "kill", "KILL_OPTIONS", "<container-id> [signal]", "send a signal to the container's init"),
    "delete": ("lifecycle", "delete", "DELETE_OPTIONS", "<container-id>", "delete any resources held by the container"),
    "exec": (
        "execution",
        "execute",
        "OPTIONS",
        "<container-id> <command> [args]",
        "execute new process in the container",
    ),
    "list": ("lifecycle", "list_all", "LIST_OPTIONS", "", "lists containers started by davit-runc with the given root"),
    "ps": ("resources", "show_processes", "PS_OPTIONS", "<container-id> [ps options]", "display the processes inside"),
    "pause": ("lifecycle", "pause", None, "<container-id>", "suspends all processes inside the container"),
    "resume": ("lifecycle", "resume", None, "<container-id>", "resumes all processes that have been paused"),
    "update": ("resources", "update", "UPDATE_OPTIONS", "<container-id>", "update container resource constraints"),
    "events": ("resources", "events", "EVENTS_OPTIONS", "<container-id>", "display OOM notifications and statistics"),
    "features": ("info", "features", None, "", "show the enabled features"),
    "spec": ("info", "write_spec", "SPEC_OPTIONS", "", "create a new specification file"),
    "checkpoint": ("info", "refuse_checkpoint", None, "<container-id>", "not supported"),
    "restore": ("info", "refuse_checkpoint", None, "<container-id>", "not supported"),
}


class Config:
    """The global options.

    Attributes:
        root: directory of the containers' records.
        log: file for messages, "" for standard error; log_format "text" or "json".
    """

    __slots__ = ("log", "log_format", "root", "rootless", "systemd_cgroup")

    def __init__(self, values: dict[str, Any]) -> None:
        self.log: str = values["log"]
        self.log_format: str = values["log_format"]
        if self.log_format not in {"text", "json"}:
            raise UsageError(f'invalid log-format: "{self.log_format}"')
        self.rootless = {"true": True, "false": False, "auto": os.geteuid() != 0}.get(values["rootless"])
        if self.rootless is None:
            raise UsageError(f'invalid value "{values["rootless"]}" for --rootless')
        self.root: str = os.path.abspath(values["root"] or self._default_root())
        self.systemd_cgroup: bool = values["systemd_cgroup"]

    @staticmethod
    def _default_root() -> str:
        if os.geteuid() == 0:
            return "/run/davit-runc"
        return os.path.join(os.environ.get("XDG_RUNTIME_DIR") or f"/tmp/davit-runc-{os.geteuid()}", "davit-runc")

    def report(self, message: str) -> None:
        """Log an error the way runc does: to the log, and to standard error as well."""
        if not self.log:
            sys.stderr.write(self._line(message))
            return
        fd = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            os.write(fd, self._line(message).encode())
        finally:
            os.close(fd)
        sys.stderr.write(message + "\n")

    def _line(self, message: str) -> str:
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        if self.log_format == "json":
            return jsonlite.dumps({"level": "error", "msg": message, "time": now}) + "\n"
        return f"time={jsonlite.dumps(now)} level=error msg={jsonlite.dumps(message)}\n"


def _overview() -> str:
    lines = ["NAME:", "   davit-runc - run containers according to the OCI specification", ""]
    lines += ["USAGE:", "   davit-runc [global options] command [command options] [arguments...]", "", "COMMANDS:"]
    lines += [f"   {name:12} {text}" for name, (*_, text) in COMMANDS.items()]
    lines += ["", "GLOBAL OPTIONS:"]
    lines += [f"   --{option.names[0]:20} {option.help}" for option in GLOBAL_OPTIONS]
    return "\n".join(lines) + "\n"


def _command(name: str) -> tuple[Callable[[Config, dict[str, Any], list[str]], int], tuple[Option, ...]]:
    module_name, function, options, _, _ = COMMANDS[name]
    module = __import__(f"services.executor.runtime.commands.{module_name}", fromlist=[function])
    return getattr(module, function), getattr(module, options) if options else ()


def main(argv: list[str] | None = None) -> int:
    """The program; returns its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        values, rest = parse(GLOBAL_OPTIONS, arguments)
        if rest and rest[0] in _MAKING:
            selfexe.protect(arguments)
        if values["version"]:
            sys.stdout.write(f"davit-runc version {VERSION}\nspec: {SPEC_VERSION}\n")
            return 0
        if values["help"] or not rest or rest[0] == "help":
            sys.stdout.write(_overview())
            return 0
        config = Config(values)
        if rest[0] not in COMMANDS:
            raise UsageError(f"No help topic for '{rest[0]}'")
    except UsageError as error:
        sys.stderr.write(f"davit-runc: {error}\n")
        return 1
    return _dispatch(config, rest[0], rest[1:])


def _dispatch(config: Config, name: str, arguments: list[str]) -> int:
    try:
        function, options = _command(name)
        if arguments[:1] in (["--help"], ["-h"]):
            sys.stdout.write(usage(name, COMMANDS[name][3], COMMANDS[name][4], options))
            return 0
        refused = name in {"checkpoint", "restore"}
        values, rest = ({}, arguments) if refused else parse(options, arguments)
        return function(config, values, rest)
    except UsageError as error:
        sys.stderr.write(f"davit-runc: {error}\n")
        sys.stderr.write(usage(name, COMMANDS[name][3], COMMANDS[name][4], options))
        config.report(str(error))
        return 1
    except RuntimeFailure as failure:
        config.report(failure.message)
    except OSError as error:
        config.report(f"{error.filename or name}: {(error.strerror or str(error)).lower()}")
    return _EXEC_FAILED if name == "exec" else 1


if __name__ == "__main__":
    sys.exit(main())
