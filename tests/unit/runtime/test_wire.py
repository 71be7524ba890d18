"""JSON without its module, frames, errors as data, options, commands."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.executor.runtime import errors, jsonlite
from services.executor.runtime.commands.options import Option, UsageError, parse
from services.executor.runtime.shim import frames
from services.executor.runtime.shim.exitrecord import ExitRecord, read
from services.executor.runtime.steps import command

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_json_is_what_the_module_reads_and_writes(value: object) -> None:
    assert json.loads(jsonlite.dumps(value)) == value
    assert jsonlite.loads(jsonlite.dumps(value, indent="  ")) == value
    assert jsonlite.loads(json.dumps(value, indent=2).encode()) == value


@pytest.mark.parametrize("text", ["", "{", "{} x", "nul", b"\xff", '{"a" 1}', "[1,]"])
def test_what_is_no_json_is_refused(text: str | bytes) -> None:
    with pytest.raises(jsonlite.InvalidJson):
        jsonlite.loads(text)


def test_enums_are_numbers() -> None:
    assert jsonlite.dumps({"n": signal.SIGKILL}) == '{"n":9}'


@given(st.lists(st.dictionaries(st.text(), st.integers(), max_size=3), max_size=5), st.integers(1, 7))
def test_frames_survive_any_chunking(messages: list[dict[str, int]], size: int) -> None:
    data = b"".join(frames.pack(message) for message in messages)
    unpacker, seen = frames.Unpacker(), []
    for start in range(0, len(data), size):
        unpacker.feed(data[start : start + size])
        while (message := unpacker.next()) is not None:
            seen.append(message)
    assert seen == messages


def test_overlong_frames_are_refused() -> None:
    unpacker = frames.Unpacker()
    unpacker.feed(b"\xff\xff\xff\xff")
    with pytest.raises(errors.InvalidSpec):
        unpacker.next()


def _all(cls: type[errors.RuntimeFailure]) -> list[type[errors.RuntimeFailure]]:
    return [cls, *(inner for sub in cls.__subclasses__() if sub.__module__ == cls.__module__ for inner in _all(sub))]


@pytest.mark.parametrize("cls", _all(errors.RuntimeFailure))
def test_every_failure_survives_the_trip(cls: type[errors.RuntimeFailure]) -> None:
    failure = cls.__new__(cls)
    errors.RuntimeFailure.__init__(failure, "what", step="mounts", field="a.b", errno=2)
    again = errors.from_wire(jsonlite.loads(jsonlite.dumps(failure.to_wire())))
    assert type(again) is cls
    assert (again.message, again.step, again.field, again.errno) == ("what", "mounts", "a.b", 2)


def test_unknown_code_keeps_its_text() -> None:
    assert errors.from_wire({"code": "new", "message": "text"}).message == "text"


OPTIONS = (
    Option("bundle b", "text", "", "."),
    Option("all a", "flag", ""),
    Option("env e", "list", ""),
    Option("n", "int", "", 0),
)


def test_options() -> None:
    values, rest = parse(OPTIONS, ["-b", "x", "--all", "-e", "A=1", "--env=B=2", "-n=3", "id", "-a"])
    assert values == {"bundle": "x", "all": True, "env": ["A=1", "B=2"], "n": 3}
    assert rest == ["id", "-a"]
    assert parse(OPTIONS, ["--", "-a"])[1] == ["-a"]


def test_options_among_arguments() -> None:
    values, rest = parse(OPTIONS, ["id", "-n", "-1", "sig", "-a", "--", "-b"], mixed=True)
    assert (values["n"], values["all"], values["bundle"]) == (-1, True, ".")
    assert rest == ["id", "sig", "-b"]


@pytest.mark.parametrize("arguments", [["--what"], ["-b"], ["-n", "x"]])
def test_options_refused(arguments: list[str]) -> None:
    with pytest.raises(UsageError):
        parse(OPTIONS, arguments)


def test_commands_are_found_like_a_shell_does(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    with pytest.raises(errors.CommandFailure, match=r'exec: "program": executable file not found in \$PATH'):
        command.find("program", {"PATH": str(tmp_path)})
    program.chmod(0o755)
    assert command.find("program", {"PATH": f"/nonexistent:{tmp_path}"}) == str(program)
    with pytest.raises(errors.CommandFailure) as caught:
        command.find(str(tmp_path), {})
    assert (caught.value.exit_code, caught.value.message) == (126, f'exec: "{tmp_path}": permission denied')


def test_exit_record(tmp_path: Path) -> None:
    path = str(tmp_path / "exit.json")
    assert read(path) is None
    ExitRecord.of_status(9, oom_killed=True, started_at_ns=1, finished_at_ns=2).write(path)
    record = read(path)
    assert record is not None
    assert (record.exit_code, record.signal, record.oom_killed, record.finished_at_ns) == (137, 9, True, 2)
    assert ExitRecord.of_status(3 << 8).exit_code == 3
