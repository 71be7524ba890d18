"""Calling another runtime: its arguments, its environment, its errors."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from services.executor.runtime.errors import ForeignFailure
from services.executor.runtime.foreign.command import Runtime

ROOT = Path(__file__).resolve().parents[3]


def runtime(tmp_path: Path, script: str, **more: Any) -> Runtime:
    path = tmp_path / "runtime"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    wanted = {"path": str(path), "args": ["--own"], "root": str(tmp_path / "root"), "directory": str(tmp_path)}
    return Runtime({"id": "c1", "runtime": wanted, **more})


def test_arguments_come_before_ours_and_ours_before_the_command(tmp_path: Path) -> None:
    one = runtime(tmp_path, f'echo "$@" > {tmp_path}/said')
    one.call("start", "c1")
    log = f"--log {tmp_path}/init.log --log-format json"
    assert (tmp_path / "said").read_text() == f"--own --root {tmp_path}/root {log} start c1\n"
    assert not (tmp_path / "init.log").exists()


def test_an_exec_has_files_of_its_own(tmp_path: Path) -> None:
    assert runtime(tmp_path, "", exec_id="e" * 64).file("pid") == f"{tmp_path}/exec-{'e' * 16}.pid"
    assert runtime(tmp_path, "", socket="/run/s/abc.sock").console == "/run/s/abc.tty"


LOG = (
    r"""printf '%s\n' '{"level":"error","msg":"first"}' 'no json' '{"level":"warning","msg":"later"}' > "$5"; exit 1"""
)


def test_the_last_error_of_its_log_is_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ForeignFailure, match=r"^first$"):
        runtime(tmp_path, LOG).call("create", "c1")


def test_the_last_error_is_found_at_the_end_of_a_long_log(tmp_path: Path) -> None:
    (tmp_path / "long").write_text('{"level":"debug","msg":"step"}\n' * 10_000 + '{"level":"error","msg":"last"}\n')
    with pytest.raises(ForeignFailure, match=r"^last$"):
        runtime(tmp_path, f'cat {tmp_path}/long > "$5"; exit 1').call("create", "c1")


@pytest.mark.parametrize(("script", "how"), [("exit 3", "exit status 3"), ("kill -9 $$", "signal 9")])
def test_without_a_log_its_end_is_told(tmp_path: Path, script: str, how: str) -> None:
    with pytest.raises(ForeignFailure, match=f"runtime create: {how}"):
        runtime(tmp_path, script).call("create", "c1")


def test_an_executable_that_is_gone(tmp_path: Path) -> None:
    one = runtime(tmp_path, "")
    os.unlink(tmp_path / "runtime")
    with pytest.raises(ForeignFailure, match=r"fork/exec .*runtime: no such file or directory"):
        one.call("create", "c1")


def test_signals_that_we_ignore_reach_it(tmp_path: Path) -> None:
    """A shim ignores SIGTERM; what it starts would inherit that, and a container could not be stopped."""
    said = tmp_path / "ignored"
    one = runtime(
        tmp_path, f"exec {sys.executable} -I -c \"open('{said}','w').write(open('/proc/self/status').read())\""
    )
    previous = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        one.call("create", "c1")
    finally:
        signal.signal(signal.SIGTERM, previous)
    mask = next(line for line in said.read_text().splitlines() if line.startswith("SigIgn:"))
    assert not int(mask.split()[1], 16) >> (signal.SIGTERM - 1) & 1


def test_its_streams_are_the_containers(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    null = os.open("/dev/null", os.O_RDWR)
    runtime(tmp_path, "echo out; echo err >&2").call("create", "c1", streams=(null, writer, writer))
    os.close(writer)
    os.close(null)
    with open(reader, encoding="ascii") as file:
        assert sorted(file.read().split()) == ["err", "out"]


def test_delete_asks_only_for_what_is_known(tmp_path: Path) -> None:
    one = runtime(tmp_path, f'echo "$8 $9" > {tmp_path}/said')
    one.delete()
    assert not (tmp_path / "said").exists()
    (tmp_path / "root" / "c1").mkdir(parents=True)
    one.delete()
    assert (tmp_path / "said").read_text() == "delete --force\n"


def test_it_costs_nothing_until_an_order_asks_for_it() -> None:
    """What the zygote imports every shim carries."""
    script = (
        "import sys; from services.executor.runtime.launch import order, rehearsal, zygote; "
        "from services.executor.runtime.shim import shim; print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert "services.executor.runtime.shim.shim" in loaded.split()
    assert "services.executor.runtime.foreign.runtime" not in loaded.split()
