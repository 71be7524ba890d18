"""A file's timeline: what it comes to, and that the same seed gives the same."""

from __future__ import annotations

import pytest

from lab.faults.plan import LASTS_S, Known, plan
from lab.topology.load import parse
from shared.errors import InvalidArgument

KNOWN = Known(
    {"m1": "manager", "w1": "worker", "w2": "worker"}, [("m1", "w1"), ("w1", "lan")], ["m1", "w1", "w2", "lan"]
)


def told(faults: list[dict[str, str]], seed: int = 0) -> list[tuple[float, str]]:
    return [(action.at_s, str(action)) for action in plan(faults, seed, KNOWN)]


def test_actions_and_what_undoes_them_come_in_order() -> None:
    faults = [
        {"at 40s": "kill w1"},
        {"at 10s": "cut m1-w1 for 30s"},
        {"at 5s": "pause w2 for 1m"},
        {"at 1s": "link w1-lan delay 20ms loss 5% for 2s"},
    ]
    assert told(faults) == [
        (1.0, "link w1-lan delay 20ms loss 5%"),
        (3.0, "unlink w1-lan"),
        (5.0, "pause w2"),
        (10.0, "cut m1-w1"),
        (40.0, "kill w1"),
        (40.0, "heal m1-w1"),
        (65.0, "resume w2"),
    ]


def test_what_is_drawn_by_lot_follows_from_the_seed() -> None:
    faults = [{"every 10s..60s": "kill any worker for 1s..5s"}, {"at 3s..9s": "cut any link"}]
    assert told(faults, 1) == told(faults, 1)
    assert told(faults, 1) != told(faults, 2)
    assert told([*faults, {"at 1s": "kill m1"}], 1) != told(faults, 1)
    kills = [entry for entry in told(faults, 1) if entry[1].startswith("kill")]
    assert kills == [entry for entry in told([*faults, {"at 1s": "pause m1"}], 1) if entry[1].startswith("kill")]
    assert {text for _, text in kills} == {"kill w1", "kill w2"}
    assert all(at <= LASTS_S for at, _ in kills)
    assert LASTS_S / 60 <= len(kills) <= LASTS_S / 10


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"in 10s": "kill w1"}, "'in 10s' is not of the form"),
        ({"at 10": "kill w1"}, "'10' is not of the form"),
        ({"at 20s..10s": "kill w1"}, "ends before it begins"),
        ({"every 0s": "kill w1"}, "is the shortest pause"),
        ({"at 1s": "kill w9"}, "there is no node w9"),
        ({"at 1s": "cut w1-w9"}, "'w1-w9' does not name two of"),
        ({"at 1s": "break w1"}, "'break' is none of"),
        ({"at 1s": "kill"}, "does not say what is done to what"),
        ({"at 1s": "kill w1 hard"}, "hard is not understood"),
        ({"at 1s": "link m1-w1"}, "link wants parameters"),
        ({"at 1s": "link m1-w1 delay 20"}, "'20' is not of the form"),
        ({"at 1s": "restart w1 for 2s"}, "restart cannot be undone"),
    ],
)
def test_what_is_not_understood_is_refused(entry: dict[str, str], said: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        told([entry])
    assert said in str(refused.value)


def test_the_file_is_told_line_by_line() -> None:
    text = "nodes: {m1: {role: manager}}\nfaults:\n- at 1s: kill m1\n- at 2s: kill m2\n"
    with pytest.raises(InvalidArgument) as refused:
        parse(text, "x.yml")
    assert str(refused.value) == "x.yml:4: faults.1: there is no node m2"
