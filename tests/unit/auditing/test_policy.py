"""Which rule decides what is recorded of a request."""

import pytest

from shared.auditing.policy import BUILT_IN, Decision, Level, Policy
from shared.errors import InvalidArgument

TEXT = """
default: Metadata
rules:
- {level: None, resources: [system], verbs: [ping]}
- {level: null, subjects: ["user:prometheus"], verbs: [list, inspect]}
- {level: RequestResponse, resources: [container], labels: {tier: "pr*"}}
- {level: Request, resources: [container, exec], objects: ["web-*"], verbs: ["*"]}
"""


@pytest.fixture(scope="module")
def policy():
    return Policy.parse(TEXT, "test")


@pytest.mark.parametrize(
    ("subjects", "verb", "resource", "name", "labels", "level", "rule"),
    [
        (("uid:0",), "ping", "system", "", {}, Level.NONE, 1),
        (("uid:9", "user:prometheus"), "list", "container", "", {}, Level.NONE, 2),
        (("uid:9", "user:prometheus"), "start", "container", "web-1", {}, Level.REQUEST, 4),
        (("uid:0",), "start", "container", "web-1", {"tier": "prod"}, Level.REQUEST_RESPONSE, 3),
        (("uid:0",), "start", "container", "db", {"tier": "test"}, Level.METADATA, 0),
        (("uid:0",), "create", "volume", "web-1", {}, Level.METADATA, 0),
    ],
)
def test_the_first_rule_that_matches_decides(policy, subjects, verb, resource, name, labels, level, rule):
    decision = policy.decide(subjects, verb, resource, name, labels)
    assert (decision.level, decision.rule) == (level, rule)


def test_labels_are_asked_for_only_where_a_rule_needs_them(policy):
    assert policy.decide(("uid:0",), "start", "container", "web-1") is None
    assert policy.decide(("uid:0",), "ping", "system") is not None
    assert policy.decide(("uid:0",), "create", "volume", "x") is not None


def test_without_a_file_everything_but_pings_is_recorded_with_what_was_asked():
    assert Policy.read("") is BUILT_IN
    assert BUILT_IN.decide((), "ping", "system") == Decision(level=Level.NONE, rule=1)
    assert BUILT_IN.decide((), "start", "container", "x") == Decision(level=Level.REQUEST)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("rules: [", "not valid YAML"),
        ("rules: [{level: Everything}]", "rules.0.level"),
        ("rules: [{level: Request, verb: [x]}]", "rules.0.verb"),
        ("rules: [{verbs: [x]}]", "rules.0.level"),
        ("[1]", "valid dictionary"),
        ("more: 1", "more"),
    ],
)
def test_a_policy_that_cannot_be_meant_is_refused_with_its_place(text, what):
    with pytest.raises(InvalidArgument, match=what):
        Policy.parse(text, "file")


def test_a_policy_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InvalidArgument, match="cannot be read"):
        Policy.read(str(tmp_path / "none"))
