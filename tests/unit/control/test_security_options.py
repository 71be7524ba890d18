"""The agent reads every spelling of a truth value that control lets through."""

from __future__ import annotations

import pytest

from services.executor.agent.configuration.confinement import security_options
from shared.docker.words import FALSE, TRUE


@pytest.mark.parametrize("value", sorted(TRUE))
def test_no_new_privileges_is_set_by_every_spelling_of_true(value: str) -> None:
    assert security_options([f"no-new-privileges={value}"]).no_new_privileges


@pytest.mark.parametrize("value", sorted(FALSE))
def test_no_new_privileges_is_left_out_by_every_spelling_of_false(value: str) -> None:
    assert not security_options([f"no-new-privileges:{value}"]).no_new_privileges
