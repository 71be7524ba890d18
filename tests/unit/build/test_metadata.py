"""Instructions that change the configuration only, and the texts that history keeps: those of the classic builder."""

from __future__ import annotations

from typing import Any

import pytest

from services.image.build.dockerfile.stages import parse_trigger
from services.image.build.ports import BuiltImage
from services.image.build.state import StageState
from services.image.build.steps import metadata
from services.image.build.steps.arguments import GlobalArguments, StageArguments
from shared.contracts.docker import ContainerConfig
from shared.errors import InvalidArgument


def state(**config: Any) -> StageState:
    made = ContainerConfig(**config)
    return StageState("", BuiltImage("", made), made, StageArguments(GlobalArguments({"G": "given"}, {})))


def apply(text: str, on: StageState) -> str:
    return metadata.apply(parse_trigger(text), on)


@pytest.mark.parametrize(
    ("text", "history", "field", "value"),
    [
        ('ENV A=1 B="x y"', "ENV A=1 B=x y", "env", ["A=1", "B=x y"]),
        ("LABEL a=$V 'b c'=d", "LABEL a=v b c=d", "labels", {"a": "v", "b c": "d"}),
        ("CMD a b", 'CMD ["/bin/sh" "-c" "a b"]', "cmd", ["/bin/sh", "-c", "a b"]),
        ('CMD ["a", "b"]', 'CMD ["a" "b"]', "cmd", ["a", "b"]),
        ('ENTRYPOINT ["a"]', 'ENTRYPOINT ["a"]', "entrypoint", ["a"]),
        ("EXPOSE 80 70-71/UDP", "EXPOSE 70-71/UDP 80", "exposed_ports", {"70/udp": {}, "71/udp": {}, "80/tcp": {}}),
        ('VOLUME ["/a b", "/c"]', "VOLUME [/a b /c]", "volumes", {"/a b": {}, "/c": {}}),
        ("USER $V:0", "USER v:0", "user", "v:0"),
        ("STOPSIGNAL SIGQUIT", "STOPSIGNAL SIGQUIT", "stop_signal", "SIGQUIT"),
        ('SHELL ["a", "-c"]', "SHELL [a -c]", "shell", ["a", "-c"]),
        ("ONBUILD RUN $V", "ONBUILD RUN $V", "on_build", ["RUN $V"]),
    ],
)
def test_what_each_does(text: str, history: str, field: str, value: object) -> None:
    changed = state(env=["V=v"])
    assert apply(text, changed) == history
    found = getattr(changed.config, field)
    assert (found[1:] if field == "env" else found) == value


def test_what_follows_sees_what_was_before() -> None:
    stage = state()
    assert apply("ARG G", stage) == "ARG G"
    assert apply("ARG X=$G.x", stage) == "ARG X=given.x"
    assert apply("ENV E=$X", stage) == "ENV E=given.x"
    assert apply("ENV E=2 F=$E", stage) == "ENV E=2 F=given.x", "all of one line see what was before the line"
    assert stage.config.env == ["E=2", "F=given.x"]
    assert apply("MAINTAINER a <b>", stage) == "MAINTAINER a <b>"
    assert stage.author == "a <b>"


def test_an_entry_point_takes_the_bases_command_away() -> None:
    base = state(cmd=["x"])
    apply('ENTRYPOINT ["e"]', base)
    assert base.config.cmd is None
    own = state(cmd=["x"])
    apply('CMD ["c"]', own)
    apply('ENTRYPOINT ["e"]', own)
    assert own.config.cmd == ["c"]


def test_a_health_check() -> None:
    stage = state()
    text = apply("HEALTHCHECK --interval=1m30s --timeout=3s --retries=2 CMD curl x", stage)
    assert text == 'HEALTHCHECK &{["CMD-SHELL" "curl x"] "1m30s" "3s" "0s" \'\\x02\'}'
    check = stage.config.healthcheck
    assert check is not None
    assert (check.test, check.interval, check.retries) == (["CMD-SHELL", "curl x"], 90 * 10**9, 2)
    apply("HEALTHCHECK NONE", stage)
    assert stage.config.healthcheck is not None
    assert stage.config.healthcheck.test == ["NONE"]


@pytest.mark.parametrize(
    ("before", "text", "after"),
    [("", "a", "/a"), ("/w", "a/../b", "/w/b"), ("/w", "/a//b/", "/a/b"), ("/w", "../..", "/"), ("/w", "$V", "/w/v")],
)
def test_working_directories(before: str, text: str, after: str) -> None:
    stage = state(working_dir=before, env=["V=v"])
    assert metadata.workdir_of(parse_trigger(f"WORKDIR {text}"), stage) == after


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("EXPOSE x", "Invalid containerPort: x"), ("EXPOSE 0", "Invalid containerPort: 0"),
        ("EXPOSE 2-1", "Invalid containerPort"), ("EXPOSE 65536", "Invalid containerPort"),
        ("STOPSIGNAL FOO", "Invalid signal: FOO"), ("STOPSIGNAL 0", "Invalid signal"),
        ("ENV $NONE=x", "can not be blank"),
    ],
)  # fmt: skip
def test_what_is_refused(text: str, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        apply(text, state())
