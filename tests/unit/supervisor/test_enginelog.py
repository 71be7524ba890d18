"""The log of an engine in the background is moved aside while processes go on appending to it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shared.errors import Unsupported
from supervisor import checks, enginelog


def test_what_is_too_much_is_moved_and_writers_go_on(tmp_path: Path) -> None:
    path = enginelog.path_of(tmp_path)
    writer = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(writer, b"x" * 100)
        assert not enginelog.rotate_if_large(path, 100)
        os.write(writer, b"last\n")
        assert enginelog.rotate_if_large(path, 100)
        os.write(writer, b"next\n")
        assert path.read_bytes() == b"next\n"  # at its beginning: no hole where the old lines were
        assert (tmp_path / "engine.log.1").read_bytes() == b"x" * 100 + b"last\n"
    finally:
        os.close(writer)


def test_a_log_that_is_not_there_or_not_ours(tmp_path: Path) -> None:
    path = enginelog.path_of(tmp_path)
    assert not enginelog.rotate_if_large(path, 0)
    assert not enginelog.is_ours(path)
    path.touch()
    descriptor = os.open(path, os.O_WRONLY)
    try:
        assert enginelog.is_ours(path, descriptor)
        assert not enginelog.is_ours(tmp_path, descriptor)
    finally:
        os.close(descriptor)


def test_a_kernel_without_a_needed_feature_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "NAMESPACES", ("mnt", "nosuch"))
    with pytest.raises(Unsupported, match="this kernel has no nosuch namespaces"):
        checks.check_kernel()
