"""Checks of Dockerfiles."""

from __future__ import annotations

import pytest

from services.image.build.dockerfile.stages import parse_dockerfile
from services.image.buildkit.checks import Policy, findings, parse_policy
from shared.errors import InvalidArgument


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        ('FROM a\nRUN x\nCMD ["a"]\n', []),
        ("FROM a as b\nRUN x\n", ["FromAsCasing"]),
        ("FROM a AS Base\nFROM Base\n", ["StageNameCasing"]),
        ("FROM a AS context\n", ["ReservedStageName"]),
        ("FROM a\nrun x\nRUN y\n", ["ConsistentInstructionCasing"]),
        ("FROM --platform=linux/amd64 a\n", ["FromPlatformFlagConstDisallowed"]),
        ("FROM --platform=$TARGETPLATFORM a\n", ["RedundantTargetPlatform"]),
        ("FROM --platform=$BUILDPLATFORM a\n", []),
        ("FROM a\nMAINTAINER me\n", ["MaintainerDeprecated"]),
        ("FROM a\nWORKDIR x\n", ["WorkdirRelativePath"]),
        ("FROM a AS b\nWORKDIR /x\nFROM b\nWORKDIR y\n", []),
        ('FROM a\nCMD ["a"]\nCMD ["b"]\n', ["MultipleInstructionsDisallowed"]),
        ("FROM a\nCMD echo\n", ["JSONArgsRecommended"]),
        ('FROM a\nSHELL ["x"]\nCMD echo\n', []),
        ("FROM a\nENV a b\n", ["LegacyKeyValueFormat"]),
        ("FROM a\nENV a=b c=d\n", []),
        ("FROM a\nARG DB_PASSWORD\nENV API_KEY=x PUBLIC_KEY=y\n", ["SecretsUsedInArgOrEnv"] * 2),
        ("FROM a\nENV MONKEY=x TOKENIZERS=1\n", []),
    ],
)
def test_rules(text: str, rules: list[str]) -> None:
    assert [item.rule for item in findings(parse_dockerfile(text), Policy())] == rules


def test_policies() -> None:
    dockerfile = parse_dockerfile("FROM a\nWORKDIR x\nMAINTAINER me\n")
    assert [item.rule for item in findings(dockerfile, parse_policy("skip=WorkdirRelativePath"))] == [
        "MaintainerDeprecated"
    ]
    assert findings(dockerfile, parse_policy("skip=all;error=true")) == []
    assert parse_policy("error=true").error
    with pytest.raises(InvalidArgument, match="invalid check option"):
        parse_policy("unheard=of")


def test_where_a_rule_is_explained() -> None:
    (found,) = findings(parse_dockerfile("FROM a\nCMD echo\n"), Policy())
    assert found.url.endswith("/json-args-recommended/")
    assert (found.first, found.last) == (2, 2)
