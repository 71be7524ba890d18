"""The supervisor as a program: ``python -m supervisor.__main__ RUN_DIR --guardian PID [--announce FD] [--first]``.

What `davit up` was told is in the run directory's ``spec.json``, so that a supervisor started anew gets the same.
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from shared import logs
from shared.config import EngineConfig
from shared.errors import DavitError, Internal
from supervisor.ownership import EXIT_LOST, Ownership
from supervisor.process import die_with_parent, set_title
from supervisor.state import read_json, write_json

EXIT_FAILURE = 1


@dataclass(frozen=True)
class Spec:
    """What `davit up` decided.

    Attributes:
        environment: Variables that give every process the settings of the command line.
        locks: Inherited descriptors that hold the engine's locks.
        tied: Whether all of the engine ends when its first process is killed, as with dockerd; else that comes back.
    """

    services: list[str]
    environment: dict[str, str]
    locks: list[int]
    tied: bool = False

    def write(self, run_dir: Path) -> None:
        write_json(run_dir / "spec.json", asdict(self))

    @classmethod
    def read(cls, run_dir: Path) -> Spec:
        values = read_json(run_dir / "spec.json")
        if values is None:
            raise Internal(f"{run_dir / 'spec.json'} is missing: start the engine with davit up")
        return cls(**values)


def guardian_command(
    run_dir: Path, locks: Sequence[int], *, announce: int | None = None, watched: int | None = None
) -> list[str]:
    """The command of a guardian, which starts supervisors by itself or watches one that runs."""
    script = str(Path(__file__).with_name("guardian.py"))
    optional = ["-" if value is None else str(value) for value in (announce, watched)]
    supervisor = [sys.executable, "-OO", "-P", "-m", "supervisor.__main__", str(run_dir)]
    held = ",".join(str(descriptor) for descriptor in locks)
    return [sys.executable, "-I", "-S", script, str(run_dir), *optional, held, *supervisor]


def _new_guardian(run_dir: Path, locks: Sequence[int]) -> Callable[[], int]:
    def spawn() -> int:
        command = guardian_command(run_dir, locks, watched=os.getpid())
        process = subprocess.Popen(command, pass_fds=locks, stdin=subprocess.DEVNULL, start_new_session=True)
        process.returncode = 0  # the supervisor reaps it
        return process.pid

    return spawn


def _announcer(descriptor: int | None) -> Callable[[str], None]:
    def announce(text: str) -> None:
        if descriptor is None:
            print(f"davit: {text.split(' ', 2)[-1]}", file=sys.stderr)
            return
        try:
            os.write(descriptor, text.replace("\n", " ").encode() + b"\n")
            os.close(descriptor)
        except BrokenPipeError:
            return  # whoever started the engine does not wait any more

    return announce


def main(arguments: list[str] | None = None) -> int:
    """Supervise; the engine's exit code."""
    parser = argparse.ArgumentParser(prog="python -m supervisor.__main__")
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--guardian", type=int, required=True)
    parser.add_argument("--announce", type=int)
    parser.add_argument("--first", action="store_true")
    parsed = parser.parse_args(arguments)
    return supervise(parsed.run_dir, parsed.guardian, parsed.announce, first=parsed.first)


def supervise(run_dir: Path, guardian: int | None, announcing: int | None, *, first: bool) -> int:
    """Supervise the engine that a run directory's ``spec.json`` describes; its exit code.

    Args:
        guardian: The process that starts this one again; None makes one.
        announcing: A descriptor that is told how the start ended.
    """
    set_title("davit: supervisor")
    announce = _announcer(announcing)
    try:
        spec = Spec.read(run_dir)
        os.environ.update(spec.environment)
        config = EngineConfig.load()
        ownership = Ownership(spec.locks)
    except (DavitError, OSError) as error:
        announce(f"error {EXIT_FAILURE} {error}")
        return EXIT_FAILURE
    if (directory := ownership.lost()) is not None:
        announce(f"error {EXIT_LOST} {directory} is another engine's, or gone")
        return EXIT_LOST
    for descriptor in spec.locks:
        os.set_inheritable(descriptor, False)
    new_guardian = _new_guardian(run_dir, spec.locks)
    if guardian is None:
        guardian = new_guardian()
    if spec.tied:
        die_with_parent(guardian)
    logs.configure("supervisor", level=config.python_log_level, json=config.log_format == "json")
    for sentence in config.without_effect:
        logging.getLogger("davit.supervisor").info("%s", sentence)
    from supervisor.supervisor import Supervisor

    return Supervisor(
        config,
        spec.services,
        announce,
        guardian=guardian,
        new_guardian=new_guardian,
        private=spec.locks,
        ownership=ownership,
        announcing=announcing,
        first=first,
    ).run()


if __name__ == "__main__":
    sys.exit(main())
