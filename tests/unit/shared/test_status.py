"""The STATUS column, and how long it says the same."""

from __future__ import annotations

import random

import pytest

from shared.docker.status import FOR_EVER_NS, human_duration, status_text, status_until

SECOND = 1_000_000_000


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "Less than a second"), (1, "1 second"), (59, "59 seconds"), (60, "About a minute"), (120, "2 minutes"),
        (3599, "59 minutes"), (3600, "About an hour"), (7200, "2 hours"), (86400, "24 hours"), (3 * 86400, "3 days"),
        (15 * 86400, "2 weeks"), (70 * 86400, "2 months"), (800 * 86400, "2 years"),
    ],
)  # fmt: skip
def test_durations_in_dockers_words(seconds: float, text: str) -> None:
    assert human_duration(seconds) == text


def test_status_texts() -> None:
    now = 100 * SECOND
    code = f"3|{70 * SECOND}|{90 * SECOND}|"
    assert status_text("running", code, now) == "Up 30 seconds"
    assert status_text("running", code + "starting", now) == "Up 30 seconds (health: starting)"
    assert status_text("running", code + "healthy", now) == "Up 30 seconds (healthy)"
    assert status_text("paused", code, now) == "Up 30 seconds (Paused)"
    assert status_text("restarting", code, now) == "Restarting (3) 10 seconds ago"
    assert status_text("exited", code, now) == "Exited (3) 10 seconds ago"
    assert status_text("created", code, now) == "Created"
    assert status_text("removing", code, now) == "Removal In Progress"


@pytest.mark.parametrize("status", ["running", "paused", "restarting", "exited", "created", "removing", "dead"])
def test_a_text_stays_until_it_is_said_to_change(status: str) -> None:
    chance = random.Random(status)
    for _ in range(2000):
        started, finished = (chance.randrange(10**18, 10**18 + 10**9) for _ in range(2))
        code = f"1|{started}|{finished}|"
        now = 10**18 + int(10 ** chance.uniform(0, 17.5))
        until = status_until(status, code, now)
        assert until > now
        for moment in (now, (now + min(until, 2 * now)) // 2, min(until, 2 * now) - 1):
            assert status_text(status, code, moment) == status_text(status, code, now)


def test_a_text_is_not_made_anew_much_more_often_than_it_changes() -> None:
    code = f"0|{100 * SECOND}|0|"
    assert status_until("running", code, 130 * SECOND + 5) == 131 * SECOND
    assert status_until("running", code, (100 + 150) * SECOND) == (100 + 180) * SECOND
    assert status_until("running", code, (100 + 2 * 3600) * SECOND) == (100 + 9000) * SECOND
    assert status_until("created", code, 0) == FOR_EVER_NS
