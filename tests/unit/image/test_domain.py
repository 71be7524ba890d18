"""What an image is, made from its configuration."""

from __future__ import annotations

from typing import Any

import pytest

from services.image.catalog.domain import (
    MISSING,
    Ancestor,
    LayerRecord,
    Name,
    User,
    check_delete,
    check_untag,
    history,
    is_single_reference,
    make_record,
    unix_time,
    with_names,
)
from services.image.catalog.manifests import ImageConfig, chain_ids
from shared.errors import Conflict, InvalidArgument

DIFFS = ["sha256:" + letter * 64 for letter in "ab"]
IMAGE = "sha256:" + "1" * 64


def layers() -> list[LayerRecord]:
    chains = chain_ids(DIFFS)
    return [
        LayerRecord(chain, diff, below, diff, "tar", 10, size)
        for chain, diff, below, size in zip(chains, DIFFS, ["", *chains], (100, 20), strict=False)
    ]


def config(**raw: Any) -> ImageConfig:
    return ImageConfig({"os": "linux", "architecture": "amd64", **raw}, DIFFS)


def name(text: str, digest: bool = False) -> Name:
    repository = text.partition("@")[0] if digest else text.rpartition(":")[0]
    return Name(text, repository, digest, IMAGE)


def test_a_record_sums_up_its_layers() -> None:
    raw = {"created": "2024-01-02T03:04:05.123456789Z", "author": "me", "history": [{"comment": "last"}]}
    record = make_record(IMAGE, config(**raw, config={"Cmd": ["sh"]}), layers(), manifest_digest="sha256:m")
    image = record.image
    assert (image.size_bytes, image.created_unix, image.author, image.comment) == (120, 1_704_164_645, "me", "last")
    assert (image.config.cmd, image.diff_ids) == (["sh"], DIFFS)
    assert record.content == [IMAGE, "sha256:m"]


def test_values_of_other_types_are_left_out_or_refused() -> None:
    image = make_record(IMAGE, config(author=5, created=7, history="x"), layers(), manifest_digest="m").image
    assert (image.author, image.created_unix, image.comment) == ("", 0, "")
    with pytest.raises(InvalidArgument, match="invalid image configuration"):
        make_record(IMAGE, config(config={"Env": 5}), layers(), manifest_digest="m")
    with pytest.raises(InvalidArgument, match="does not match the layers"):
        make_record(IMAGE, config(), layers()[:1], manifest_digest="m")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("", 0), ("yesterday", 0), ("1970-01-01T00:00:10.999999999Z", 10), ("1970-01-01T01:00:00+01:00", 0)],
)
def test_times(text: str, seconds: int) -> None:
    assert unix_time(text) == seconds


def test_names_are_sorted_and_told_apart() -> None:
    digest = f"docker.io/library/a@{IMAGE}"
    image = make_record(IMAGE, config(), layers(), manifest_digest="m").image
    shown = with_names(image, [name("docker.io/library/b:1"), name(digest, digest=True), name("docker.io/library/a:2")])
    assert (shown.repo_tags, shown.repo_digests) == (["a:2", "b:1"], [f"a@{IMAGE}"])


def test_history_is_told_newest_first_with_its_sizes() -> None:
    steps = [{"created_by": "one"}, {"created_by": "two", "empty_layer": True}, {"created_by": "three"}, "no step"]
    told = history({"history": steps}, [100, 20], [Ancestor(IMAGE, ["a:1"]), Ancestor("sha256:2")])
    assert [(one.id, one.created_by, one.size_bytes) for one in told] == [
        (IMAGE, "three", 20), ("sha256:2", "two", 0), (MISSING, "one", 100),
    ]  # fmt: skip
    assert told[0].tags == ["a:1"]
    assert history({}, [1], []) == []


RUNNING, STOPPED = User("c" * 64, running=True), User("d" * 64, running=False)


@pytest.mark.parametrize(
    ("users", "names", "children", "force", "text"),
    [
        ([], [], ["sha256:3"], True, "cannot be forced.*dependent child images"),
        ([RUNNING], [], [], True, "cannot be forced.*running container cccccccccccc"),
        ([STOPPED], [], [], False, "must be forced.*stopped container dddddddddddd"),
        ([], ["a:1"], [], False, "must be forced.*referenced in multiple repositories"),
    ],
)
def test_what_keeps_an_image(users: list[User], names: list[str], children: list[str], force: bool, text: str) -> None:
    with pytest.raises(Conflict, match=text):
        check_delete(IMAGE, children=children, users=users, names=[name(one) for one in names], force=force)


def test_what_may_be_forced() -> None:
    check_delete(IMAGE, children=[], users=[STOPPED], names=[name("a:1")], force=True)
    check_delete(IMAGE, children=[], users=[], names=[name("a:1")], force=False, ignore_names=True)


def test_the_last_name_of_an_image_in_use_stays() -> None:
    one = [name("docker.io/library/a:1")]
    two = [*one, name("docker.io/library/b:1")]
    assert is_single_reference(one)
    assert not is_single_reference(two)
    check_untag("a:1", IMAGE, two, [STOPPED], force=False)
    check_untag("a:1", IMAGE, one, [], force=False)
    check_untag("a:1", IMAGE, one, [STOPPED], force=True)
    with pytest.raises(Conflict, match="unable to remove repository reference"):
        check_untag("a:1", IMAGE, one, [STOPPED], force=False)
