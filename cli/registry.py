"""Every command of `davit`: a line each, and the module that is imported when it runs.

To add one: write ``cli/NAME.py`` whose attribute ``command`` is a click command (or a `LazyGroup` with commands of its
own), and add its line here. See docs/guide/command-line.md.
"""

from __future__ import annotations

from cli.common.lazy import Lazy

ENGINE = "The engine"
CONTAINERS = "Containers and images"
CLUSTER = "Many machines"
COMMAND_LINE = "This command line"

COMMANDS = {
    "up": Lazy("cli.up", "Start the engine.", ENGINE),
    "down": Lazy("cli.down", "Stop the engine; containers go on.", ENGINE),
    "status": Lazy("cli.status", "Show processes, health, bus and database.", ENGINE),
    "dockerd": Lazy("cli.dockerd", "Run the engine in the foreground, with dockerd's flags.", ENGINE),
    "events": Lazy("cli.events", "Tell what happens, as it happens.", ENGINE),
    "audit": Lazy("cli.audit", "Show, check and export the log of who did what.", ENGINE),
    "lab": Lazy("cli.lab", "Run clusters on this machine.", ENGINE),
    "run": Lazy("cli.run", "Run a command in a new container.", CONTAINERS),
    "ps": Lazy("cli.ps", "List containers.", CONTAINERS),
    "logs": Lazy("cli.logs", "Show a container's output.", CONTAINERS),
    "stop": Lazy("cli.stop", "Stop containers.", CONTAINERS),
    "rm": Lazy("cli.rm", "Remove containers.", CONTAINERS),
    "images": Lazy("cli.images", "List images.", CONTAINERS),
    "import": Lazy("cli.importing", "Make an image of a root file system's tar.", CONTAINERS),
    "cluster": Lazy("cli.cluster", "One engine of many machines.", CLUSTER),
    "node": Lazy("cli.node", "The machines of a cluster.", CLUSTER),
    "completion": Lazy("cli.completion", "Print the completion script of a shell.", COMMAND_LINE),
    "version": Lazy("cli.version", "Show this version.", COMMAND_LINE),
}
