"""What clients ask of the Dockerfile frontend."""

from __future__ import annotations

import pytest

from services.image.build.dockerfile.stages import parse_dockerfile
from services.image.buildkit.definitions import RAW_GRAPH, definition_of, result_of
from services.image.buildkit.loading import context_paths
from services.image.buildkit.options import check_syntax, parse_options
from services.image.buildkit.wire import ops_pb2
from shared.errors import InvalidArgument, Unsupported


def test_options_become_settings() -> None:
    options = parse_options(
        {
            "filename": "sub/Dockerfile", "target": "app", "build-arg:A": "1", "label:l": "v",
            "platform": "linux/amd64",
            "no-cache": "", "image-resolve-mode": "pull", "add-hosts": "a=1.2.3.4,b=::1", "shm-size": "1024",
            "ulimit": "nofile=10:20,nproc=5", "cgroup-parent": "/p", "force-network-mode": "host",
            "context:base": "docker-image://busybox", "local-sessionid:context": "s2", "frontend.caps": "x",
        }
    )  # fmt: skip
    settings = options.settings
    assert (options.file, settings.target, settings.platform) == ("sub/Dockerfile", "app", "linux/amd64")
    assert (settings.build_args, settings.labels) == ({"A": "1"}, {"l": "v"})
    assert (settings.no_cache, settings.pull, settings.network_mode) == (True, True, "host")
    assert settings.extra_hosts == ["a:1.2.3.4", "b:::1"]
    assert settings.ulimits == [
        {"Name": "nofile", "Soft": 10, "Hard": 20}, {"Name": "nproc", "Soft": 5, "Hard": 5}
    ]  # fmt: skip
    assert options.contexts == {"base": "docker-image://busybox"}
    assert options.sessions == {"context": "s2"}


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"unheard-of": "1"}, Unsupported, "unheard-of"),
        ({"shm-size": "x"}, InvalidArgument, "shm-size"),
        ({"ulimit": "nofile"}, InvalidArgument, "ulimit"),
        ({"add-hosts": "a"}, InvalidArgument, "add-hosts"),
        ({"force-network-mode": "x"}, InvalidArgument, "force-network-mode|network mode"),
        ({"platform": "a/b/c/d"}, InvalidArgument, "platform"),
        ({"requestid": "x"}, Unsupported, "unsupported request x"),
    ],
)
def test_what_is_not_understood_is_named(given: dict[str, str], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        parse_options(given)


@pytest.mark.parametrize(
    "text", ["", "docker/dockerfile:1", "docker/dockerfile:1.7-labs", "docker.io/docker/dockerfile@sha256:" + "a" * 64]
)
def test_the_own_language(text: str) -> None:
    check_syntax(text)


def test_other_frontends_are_refused_with_a_way_out() -> None:
    with pytest.raises(Unsupported, match="docker buildx create --driver docker-container"):
        check_syntax("r2d4/llb.go:master")


def test_results_travel_as_definitions() -> None:
    definition = ops_pb2.Definition.FromString(definition_of("abc").SerializeToString())
    assert result_of(definition) == "abc"
    raw = ops_pb2.Definition()
    getattr(raw, "def").append(ops_pb2.Op(source=ops_pb2.SourceOp(identifier="docker-image://x")).SerializeToString())
    with pytest.raises(Unsupported) as refused:
        result_of(raw)
    assert str(refused.value) == RAW_GRAPH


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("FROM a\nCOPY x y/z /to/\nADD /w .\n", ["w", "x", "y/z"]),
        ("FROM a\nCOPY . /\n", []),
        ("FROM a\nARG N\nCOPY f$N /\n", []),
        ("FROM a\nRUN --mount=type=bind,source=s,target=/s true\nCOPY --from=b q /\nADD http://h/x /\n", ["s"]),
        ("FROM a\nRUN --mount=type=bind,target=/s true\n", []),
        ("FROM a\nCOPY <<E /f\nx\nE\nCOPY f /\n", ["f"]),
    ],
)
def test_which_paths_are_asked_for(text: str, paths: list[str]) -> None:
    assert context_paths(parse_dockerfile(text), [0]) == paths
