"""`davit audit`: what was asked of the engine, by whom, and whether the log of it is what was signed."""

from __future__ import annotations

from cli.common.lazy import Lazy, LazyGroup

COMMANDS = {
    "tail": Lazy("cli.audit.tail", "Show the newest records, and those that come."),
    "show": Lazy("cli.audit.show", "Show a record whole, and prove that it is in the log."),
    "search": Lazy("cli.audit.search", "Find records."),
    "export": Lazy("cli.audit.export", "Write records and what proves them to a file."),
    "verify": Lazy("cli.audit.verify", "Check that the log is what was signed."),
    "sinks": Lazy("cli.audit.sinks", "Show where records are delivered, and how far that is."),
}

command = LazyGroup("audit", lazy=COMMANDS, help="Show, check and export the log of who did what.")
