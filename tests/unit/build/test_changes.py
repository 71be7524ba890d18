"""``--change`` of commit and import: the builder's grammar."""

from __future__ import annotations

from typing import Any

import pytest

from services.image.build.steps.changes import changed_config
from shared.contracts.docker import ContainerConfig
from shared.errors import InvalidArgument


def changed(*changes: str, **start: Any) -> ContainerConfig:
    before = ContainerConfig(**start)
    kept = before.model_copy(deep=True)
    after = changed_config(before, changes)
    assert before == kept, "what was given is not touched"
    return after


def test_commands_in_both_forms() -> None:
    assert changed('CMD ["a", "b c"]').cmd == ["a", "b c"]
    assert changed("cmd a b").cmd == ["/bin/sh", "-c", "a b"]
    assert changed("ENTRYPOINT x", shell=["/bin/bash", "-c"], cmd=["y"]).entrypoint == ["/bin/bash", "-c", "x"]
    assert changed("ENTRYPOINT x", cmd=["y"]).cmd is None, "it was meant for the entry point before"
    assert changed("CMD z", "ENTRYPOINT x", cmd=["y"]).cmd == ["/bin/sh", "-c", "z"]


def test_the_other_instructions() -> None:
    config = changed(
        'ENV A=2 B="x y"', "LABEL k=v", "EXPOSE 80 90-91/UDP", "USER app", "VOLUME /a /b", 'VOLUME ["/c d"]',
        "WORKDIR /w", "WORKDIR sub", "STOPSIGNAL SIGQUIT", "ONBUILD RUN x",
        "HEALTHCHECK --interval=1m30s --retries=2 CMD curl x",
        env=["A=1", "C=3"],
    )  # fmt: skip
    assert config.env == ["A=2", "C=3", "B=x y"]
    assert config.labels == {"k": "v"}
    assert set(config.exposed_ports) == {"80/tcp", "90/udp", "91/udp"}
    assert (config.user, config.working_dir, config.stop_signal) == ("app", "/w/sub", "SIGQUIT")
    assert set(config.volumes) == {"/a", "/b", "/c d"}
    assert config.on_build == ["RUN x"]
    assert config.healthcheck is not None
    assert config.healthcheck.test == ["CMD-SHELL", "curl x"]
    assert (config.healthcheck.interval, config.healthcheck.retries) == (90 * 10**9, 2)


def test_values_are_one_file() -> None:
    assert changed("ENV A some words").env == ["A=some words"]
    assert changed("ENV A=1\nLABEL b=$A").labels == {"b": "1"}
    assert changed("ENV A=1 \\", "  B=2", "# no instruction").env == ["A=1", "B=2"]
    assert changed("ENV PATH=/x:$PATH", env=["PATH=/bin"]).env == ["PATH=/x:/bin"]
    assert changed("WORKDIR /a/../b/").working_dir == "/b"
    assert changed().env == []


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("RUN x", "run is not a valid change command"),
        ("FOO x", "foo is not a valid change command"),
        ("", "file with no instructions"),
        ("EXPOSE x", "Invalid containerPort: x"),
        ("ENV A", "ENV must have two arguments"),
        ("ENV =x", "ENV names can not be blank"),
        ("LABEL", "LABEL requires at least one argument"),
        ("USER", "USER requires exactly one argument"),
        ("ONBUILD FROM x", "FROM isn't allowed as an ONBUILD trigger"),
        ("STOPSIGNAL FOO", "Invalid signal: FOO"),
        ("STOPSIGNAL ²", "Invalid signal: ²"),
        ("HEALTHCHECK --retries=² CMD true", "parsing"),
        ("HEALTHCHECK --interval=9999999999h CMD true", "invalid duration"),
        (f"HEALTHCHECK --interval={'9' * 400}h CMD true", "invalid duration"),
        ("HEALTHCHECK FOO", 'Unknown type "FOO" in HEALTHCHECK'),
    ],
)
def test_bad_instructions(change: str, text: str) -> None:
    with pytest.raises(InvalidArgument, match=text) as refused:
        changed(change)
    assert refused.value.detail["field"] == "changes"
    assert not refused.value.message.startswith("dockerfile")
