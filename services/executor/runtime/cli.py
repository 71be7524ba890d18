"""davit-runc: the runtime with runc's command line.

Options, outputs, exit codes and the log's format are runc's, so that engines can use either; what is kept under --root
is our own. Each command's module is imported when it is called: a start is short, and imports are most of it.
"""

from __future__ import annotations

import os
import sys
import time

from services.executor.runtime import jsonlite
from services.executor.runtime.commands.options import Option, UsageError, parse, usage
from services.executor.runtime.errors import RuntimeFailure
from services.executor.runtime.steps import selfexe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

VERSION = "0.1.0"
_EXEC_FAILED = 255
_NO_SUCH_COMMAND = 3
#: commands whose arguments are another program's command line: options come before them only
_PASSING = frozenset({"exec", "ps"})

GLOBAL_OPTIONS = (
    Option("debug", "flag", "enable debug logging"),
    Option("log", "text", "set the log file to write logs to (default: stderr)", ""),
    Option("log-format", "text", "set the log format ('text' or 'json')", "text"),
    Option("root", "text", "root directory for storage of container state", ""),
    Option("criu", "text", "accepted for compatibility; checkpoint and restore are not supported", ""),
    Option("systemd-cgroup", "flag", "enable systemd cgroup support, expects cgroupsPath of form slice:prefix:name"),
    Option("cgroup-manager", "text", "'cgroupfs', or 'systemd' as --systemd-cgroup says it", ""),
    Option("rootless", "text", "ignore cgroup permission errors ('true', 'false', or 'auto')", "auto"),
    Option("help h", "flag", "show help"),
    Option("version v", "flag", "print the version"),
)

#: name -> (module, function, options' name in it, arguments, help)
COMMANDS: dict[str, tuple[str, str, str | None, str, str]] = {
    "create": ("creation", "create", "CREATE_OPTIONS", "<container-id>", "create a container"),
    "run": ("creation", "run", "RUN_OPTIONS", "<container-id>", "create and run a container"),
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
        debugging: whether `debug` writes.
        arguments: of this command as they were given.
    """

    __slots__ = ("arguments", "debugging", "log", "log_format", "root", "rootless", "systemd_cgroup")

    def __init__(self, values: dict[str, Any]) -> None:
        self.arguments: list[str] = []
        # the caller's directory is not ours for long
        self.log: str = os.path.abspath(values["log"]) if values["log"] else ""
        self.log_format: str = values["log_format"]
        if self.log_format not in {"text", "json"}:
            self.log_format = "text"
            raise RuntimeFailure(f"invalid log-format: {values['log_format']}")
        self.debugging: bool = values["debug"]
        self.rootless = {"true": True, "false": False, "auto": os.geteuid() != 0}.get(values["rootless"])
        if self.rootless is None:
            raise RuntimeFailure(f'invalid value "{values["rootless"]}" for --rootless: must be true, false or auto')
        self.root: str = os.path.abspath(values["root"] or self._default_root())
        if values["cgroup_manager"] not in {"", "cgroupfs", "systemd"}:
            raise RuntimeFailure(
                f'invalid value "{values["cgroup_manager"]}" for --cgroup-manager: must be cgroupfs or systemd'
            )
        self.systemd_cgroup: bool = values["systemd_cgroup"] or values["cgroup_manager"] == "systemd"

    @classmethod
    def standard(cls) -> Config:
        """As without any options."""
        return cls({option.names[0].replace("-", "_"): option.default for option in GLOBAL_OPTIONS})

    @staticmethod
    def _default_root() -> str:
        if os.geteuid() == 0:
            return "/run/davit-runc"
        return os.path.join(os.environ.get("XDG_RUNTIME_DIR") or f"/tmp/davit-runc-{os.geteuid()}", "davit-runc")

    def report(self, message: str) -> None:
        """Log an error the way runc does: to the log, and to standard error as well."""
        self._write("error", message)
        if self.log:
            sys.stderr.write(message + "\n")

    def warn(self, message: str) -> None:
        """Log something that is wrong, but stops nothing."""
        self._write("warning", message)

    def debug(self, message: str) -> None:
        """Log what is being done, with --debug."""
        if self.debugging:
            self._write("debug", message)

    def _write(self, level: str, message: str) -> None:
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        if self.log_format == "json":
            line = jsonlite.dumps({"level": level, "msg": message, "time": now}) + "\n"
        else:
            line = f"time={jsonlite.quote(now)} level={level} msg={jsonlite.quote(message)}\n"
        if not self.log:
            sys.stderr.write(line)
            return
        fd = self.open_log()
        try:
            os.write(fd, line.encode())
        finally:
            os.close(fd)

    def open_log(self) -> int:
        """A descriptor of the log file.

        Raises:
            OSError: it cannot be written to.
        """
        return os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)


def _overview() -> str:
    lines = ["NAME:", "   davit-runc - Open Container Initiative runtime", ""]
    lines += ["USAGE:", "   davit-runc [global options] command [command options] [arguments...]", "", "COMMANDS:"]
    lines += [f"   {name:12} {text}" for name, (*_, text) in COMMANDS.items()]
    lines += ["", "GLOBAL OPTIONS:"]
    lines += [f"   {option.shown():22} {option.help}" for option in GLOBAL_OPTIONS]
    return "\n".join(lines) + "\n"


def _command(name: str) -> tuple[Callable[[Config, dict[str, Any], list[str]], int], tuple[Option, ...]]:
    module_name, function, options, _, _ = COMMANDS[name]
    module = __import__(f"services.executor.runtime.commands.{module_name}", fromlist=[function])
    return getattr(module, function), getattr(module, options) if options else ()


def _version() -> str:
    from services.executor.runtime.commands.store import SPEC_VERSION

    return f"davit-runc version {VERSION}\ncommit: v{VERSION}\nspec: {SPEC_VERSION}\n"


def main(argv: list[str] | None = None) -> int:
    """The program; returns its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        values, rest = parse(GLOBAL_OPTIONS, arguments)
    except UsageError as error:
        sys.stdout.write(f"Incorrect Usage. {error}\n\n{_overview()}")
        Config.standard().report(str(error))
        return 1
    if rest and rest[0] in selfexe.MAKING:
        selfexe.protect(arguments)
    if values["version"]:
        sys.stdout.write(_version())
        return 0
    if not rest or (values["help"] and rest[0] in COMMANDS):
        sys.stdout.write(_overview())
        return 0
    return _checked(arguments, values, rest[0], rest[1:])


def _checked(given: list[str], values: dict[str, Any], name: str, arguments: list[str]) -> int:
    """Everything that needs the global options to make sense."""
    config = Config.standard()
    try:
        config = Config(values)
        config.arguments = given
        if config.log:
            os.close(config.open_log())
    except RuntimeFailure as failure:
        config.report(failure.message)
        return 1
    except OSError as error:
        Config.standard().report(f"open {error.filename}: {(error.strerror or '').lower()}")
        return 1
    if name in {"help", "h"}:
        name, arguments = (arguments[0], ["--help"]) if arguments else ("", [])
    if not name:
        sys.stdout.write(_overview())
        return 0
    if name not in COMMANDS:
        config.report(f"No help topic for '{name}'")
        return _NO_SUCH_COMMAND
    return _dispatch(config, name, arguments)


def _dispatch(config: Config, name: str, arguments: list[str]) -> int:
    function, options = _command(name)
    help_text = (name, COMMANDS[name][3], COMMANDS[name][4], options)
    try:
        if arguments[:1] in (["--help"], ["-h"]):
            sys.stdout.write(usage(*help_text))
            return 0
        refused = name in {"checkpoint", "restore"}
        values, rest = ({}, arguments) if refused else parse(options, arguments, mixed=name not in _PASSING)
        code = function(config, values, rest)
        sys.stdout.flush()
        return code
    except UsageError as error:
        sys.stdout.write(f"Incorrect Usage: {error}\n\n{usage(*help_text)}")
        config.report(str(error))
        return 1
    except RuntimeFailure as failure:
        config.report(failure.message)
    except BrokenPipeError:
        # whoever read our output has gone: there is nobody to tell, and nothing more may be written at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    except OSError as error:
        config.report(f"{error.filename or name}: {(error.strerror or str(error)).lower()}")
    return _EXEC_FAILED if name == "exec" else 1


if __name__ == "__main__":
    sys.exit(main())
