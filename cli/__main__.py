"""The `davit` command."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

EXIT_CONFIGURATION = 78


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; its exit code."""
    from shared.errors import DavitError, InvalidArgument, Unsupported

    parser = _parser()
    parsed = parser.parse_args(arguments)
    try:
        return _run(parsed)
    except (InvalidArgument, Unsupported) as error:
        print(f"davit: {error}", file=sys.stderr)
        return EXIT_CONFIGURATION if parsed.command == "up" else 1
    except DavitError as error:
        print(f"davit: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # the reader is gone; nothing is left to flush to
        return 141


def _parser() -> argparse.ArgumentParser:
    from cli import commands, down, status, up

    parser = argparse.ArgumentParser(prog="davit", description="A container engine behind the Docker Engine API.")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    up.add_arguments(subparsers.add_parser("up", help="start the engine"))
    down.add_arguments(subparsers.add_parser("down", help="stop the engine; containers go on"))
    status.add_arguments(subparsers.add_parser("status", help="services, health, bus and database"))
    subparsers.add_parser("version", help="this version")
    commands.add_parsers(subparsers)
    return parser


def _run(parsed: argparse.Namespace) -> int:
    if parsed.command == "up":
        from cli.up import up

        return up(parsed)
    if parsed.command == "version":
        from shared.version import VERSION

        print(f"davit {VERSION}")
        return 0
    directory = run_dir_of(parsed)
    if parsed.command == "down":
        from cli.down import down

        return down(directory, containers=parsed.containers, timeout_s=parsed.timeout)
    if parsed.command == "status":
        from cli.status import status

        return status(directory, as_json=parsed.json)
    from cli import commands

    return commands.run(parsed, directory)


def run_dir_of(parsed: argparse.Namespace) -> Path:
    """The run directory that a command means: its flag, else what the configuration says."""
    from shared.config import EngineConfig

    if parsed.run_dir:
        return Path(parsed.run_dir).absolute()
    return EngineConfig.load().run_dir


if __name__ == "__main__":
    sys.exit(main())
