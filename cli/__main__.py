"""The `davit` command.

Each command is in a module of its own that is imported when it runs (`cli.registry`); how they end is in
`cli.common.exits`.
"""

from __future__ import annotations

import os
import sys

import click

from cli.common import exits
from cli.common.engine import where_options
from cli.common.lazy import LazyGroup
from cli.registry import COMMANDS
from shared.errors import DavitError
from shared.version import VERSION

# A link of this name to the command takes dockerd's command line.
DOCKERD = "dockerd"
EXAMPLES = """\b
Examples:
  davit up --detach                        start the engine
  export DOCKER_HOST=unix:///run/davit/docker.sock
  docker run --rm busybox echo hello       any docker client, Compose, any SDK
  davit ps --format '{{.Names}}: {{.Status}}'
  davit down                               stop it; containers go on

davit COMMAND --help says more of each command.
"""


@click.group(
    "davit", cls=LazyGroup, lazy=COMMANDS, epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]}
)
@where_options
@click.version_option(VERSION, "-v", "--version", prog_name="davit", message="%(prog)s %(version)s")
def davit(run_dir: str | None, host: str | None) -> None:
    """A container engine behind the Docker Engine API."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; its exit code."""
    if arguments is None and os.path.basename(sys.argv[0]) == DOCKERD:
        arguments = [DOCKERD, *sys.argv[1:]]
    try:
        result = davit.main(arguments, prog_name="davit", standalone_mode=False)
        return result if isinstance(result, int) else exits.OK
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except exits.CommandFailed as error:
        return _failed(error, error.code)
    except DavitError as error:
        return _failed(error, exits.FAILURE)
    except (KeyboardInterrupt, click.Abort):
        return exits.INTERRUPTED
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # the reader is gone; nothing is left to flush to
        return exits.READER_GONE


def _failed(error: Exception, code: int) -> int:
    click.echo(f"davit: {error}", err=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
