"""Which volumes may be made, and which a filter means."""

from __future__ import annotations

import pytest

from services.volume import domain
from services.volume.domain import VolumeRecord
from shared.errors import InvalidArgument


def record(**fields: object) -> VolumeRecord:
    return VolumeRecord.model_validate({"name": "data", "node": "n", "created_at": "", **fields})


def test_an_empty_name_makes_an_anonymous_volume() -> None:
    made = domain.new_volume("", "", {}, {"a": "b"}, node="n", created_at="")
    assert made.anonymous
    assert len(made.name) == 64
    assert made.labels == {"com.docker.volume.anonymous": "", "a": "b"}


@pytest.mark.parametrize("name", ["ab", "a.b-c_d", "9x", "x" * 255])
def test_good_names(name: str) -> None:
    assert not domain.new_volume(name, "local", {}, {}, node="n", created_at="").anonymous


@pytest.mark.parametrize("name", ["a", ".ab", "a/b", "a b", "äb", "ab\n", "x" * 256])
def test_bad_names(name: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^create "):
        domain.new_volume(name, "", {}, {}, node="n", created_at="")


def test_options_describe_a_whole_mount() -> None:
    domain.check_options("v", {"type": "nfs", "device": ":/x", "o": "addr=1.2.3.4"})
    domain.check_options("v", {})
    with pytest.raises(InvalidArgument, match='missing required option: "type"'):
        domain.check_options("v", {"device": "/x", "o": "bind"})


def test_prune_takes_named_volumes_only_with_all() -> None:
    assert domain.prunable(record(anonymous=True), {})
    assert not domain.prunable(record(), {})
    assert domain.prunable(record(), {"all": ["true"]})
    assert not domain.prunable(record(labels={"keep": ""}), {"all": ["1"], "label!": ["keep"]})
    assert not domain.prunable(record(), {"all": ["1"], "label": ["x"]})


def test_list_filters() -> None:
    volume = record(labels={"a": "b"})
    assert domain.matches(volume, {"name": ["at"], "driver": ["local"], "label": ["a=b"]}, in_use=True)
    assert not domain.matches(volume, {"driver": ["other"]}, in_use=True)
    assert not domain.matches(volume, {"dangling": ["true"]}, in_use=True)
    assert domain.matches(volume, {"dangling": ["true"]}, in_use=False)
    with pytest.raises(InvalidArgument, match=r"invalid filter 'dangling=\[x\]'"):
        domain.matches(volume, {"dangling": ["x"]}, in_use=False)
