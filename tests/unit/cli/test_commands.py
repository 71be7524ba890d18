"""Every command is declared in one way: found without being imported, with examples, and listed as lists are."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest

from cli.__main__ import davit, main
from cli.common.lazy import LazyGroup
from cli.registry import COMMANDS

LISTING = ("ps", "images", "events", "status", "version")
PROCESSOR_TIME_S = 0.1
# Commands that mean no engine, or one that does not run yet.
ELSEWHERE = {"davit version", "davit completion", "davit dockerd"}


def commands(group: click.Group, path: str = "davit") -> Iterator[tuple[str, click.Command]]:
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command is not None
        yield f"{path} {name}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")


ALL = dict(commands(davit))


@pytest.mark.parametrize("name", COMMANDS)
def test_what_the_registry_says_of_a_command_is_how_its_own_help_begins(name: str) -> None:
    text = (COMMANDS[name].load().help or "").strip()
    assert text.startswith(COMMANDS[name].summary.rstrip("."))


@pytest.mark.parametrize("path", ALL)
def test_help_has_examples(path: str) -> None:
    command = ALL[path]
    if not isinstance(command, click.Group):
        assert f"{path}" in f"{command.help or ''}{command.epilog or ''}", "an example that can be copied"


@pytest.mark.parametrize("name", LISTING)
def test_what_lists_has_both_forms(name: str) -> None:
    flags = {flag for parameter in COMMANDS[name].load().params for flag in parameter.opts}
    assert {"--json", "--format"} <= flags


@pytest.mark.parametrize("path", sorted(set(ALL) - ELSEWHERE))
def test_every_command_knows_which_engine_is_meant(path: str) -> None:
    if ALL[path].params and path.count(" ") == 1 and not isinstance(ALL[path], click.Group):
        flags = {flag for parameter in ALL[path].params for flag in parameter.opts}
        assert {"--run-dir", "--host"} <= flags


@pytest.mark.parametrize("arguments", [["version"], ["--version"], ["--help"], ["ps", "--help"]])
def test_short_commands_take_little(arguments: list[str]) -> None:
    """The least of several runs: what others do at the same time only adds to it."""
    assert min(_processor_time_s(arguments) for _ in range(7)) < PROCESSOR_TIME_S


def _processor_time_s(arguments: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "cli", *arguments], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize("arguments", [["--help"], ["version"]])
def test_help_imports_no_other_command(arguments: list[str]) -> None:
    code = (
        "import sys; from cli.__main__ import main; main(sys.argv[1:]); "
        "print(sorted(name for name in sys.modules if name.partition('.')[0] in "
        "('supervisor', 'services', 'pydantic', 'rich', 'psutil', 'nats') or name.startswith('cli.') and "
        "not name.startswith(('cli.common', 'cli.registry', 'cli.__main__', 'cli.version'))))"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_version_is_told_both_ways(capfd: pytest.CaptureFixture[str]) -> None:
    assert (main(["version"]), main(["--version"])) == (0, 0)
    first, second = capfd.readouterr().out.splitlines()
    assert first == second == "davit 0.1.0"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sing"], "No such command 'sing'"),
        (["ps", "--loud"], "--loud"),
        (["stop"], "CONTAINERS"),
        (["--run-dir", "/r", "--host", "unix:///s", "ps"], "give one of them"),
    ],
)
def test_wrong_usage_ends_with_2_and_says_why(
    arguments: list[str], words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert words in capfd.readouterr().err


def test_an_engine_that_is_not_there_ends_with_1(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["ps", "--run-dir", "/nowhere"]) == 1
    assert "/nowhere/docker.sock" in capfd.readouterr().err


def test_run_without_a_container_ends_as_docker_does(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--run-dir", "/nowhere", "busybox", "ls", "-l"]) == 125


def completed(*words: str) -> list[str]:
    environment = os.environ | {
        "_DAVIT_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", "from cli.__main__ import main; main()"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return [line.partition(",")[2] for line in done.stdout.splitlines()]


def test_commands_and_options_are_completed() -> None:
    assert completed("davit", "st") == ["status", "stop"]
    assert completed("davit", "ps", "--al") == ["--all"]
    assert completed("davit", "completion", "z") == ["zsh"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_is_printed(shell: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert "_DAVIT_COMPLETE" in capfd.readouterr().out


def test_groups_may_be_nested() -> None:
    """As the commands to come are: `davit lab up`."""
    outer = LazyGroup("outer", lazy={"inner": COMMANDS["version"]})
    assert outer.get_command(click.Context(outer), "inner") is COMMANDS["version"].load()


def test_a_variable_of_another_program_stops_no_command(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DAVIT_DATA_ROT", "/typo")
    assert main(["up", "--services", "nonsense"]) == 78
    said = capfd.readouterr().err
    assert "DAVIT_DATA_ROT in the environment is no setting of the engine: ignored" in said
    assert "nonsense" in said
    assert main(["ps", "--run-dir", "/nowhere"]) == 1
    assert "DAVIT_DATA_ROT" not in capfd.readouterr().err
