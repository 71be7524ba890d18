"""Checks of Dockerfiles: what is valid and still a mistake, or about to become one.

Names of rules and where they are explained are BuildKit's; texts are our own.

Source: docker build, "Build checks"; Dockerfile reference, "check".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from services.image.build.dockerfile.instructions import Arg, Command, Env, Instruction, Text
from services.image.build.dockerfile.stages import Dockerfile
from shared.errors import InvalidArgument

URL = "https://docs.docker.com/go/dockerfile/rule/"
RESERVED = ("scratch", "context")
_SECRET = re.compile(r"(?i)(?:^|_)(?:apikey|auth|credentials?|key|password|pword|passwd|secret|token)(?:_|$)")
_PUBLIC = re.compile(r"(?i)(?:^|_)public(?:_|$)")
_LEGACY = re.compile(r"^\s*(?:ENV|LABEL)\s+[^\s=]+\s+\S", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule that is broken, and on which lines."""

    rule: str
    description: str
    detail: str
    first: int
    last: int

    @property
    def url(self) -> str:
        return f"{URL}{re.sub(r'(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])', '-', self.rule).lower()}/"


@dataclass(frozen=True, slots=True)
class Policy:
    """What ``# check=`` says. skip: rules, or ``all``. error: any finding fails the build."""

    skip: frozenset[str] = frozenset()
    error: bool = False


def parse_policy(text: str) -> Policy:
    """``skip=A,B;error=true``. Raises InvalidArgument."""
    skip: set[str] = set()
    error = False
    for part in text.split(";"):
        name, equals, value = part.strip().partition("=")
        if not part.strip():
            continue
        if name == "skip" and equals:
            skip |= {item.strip() for item in value.split(",") if item.strip()}
        elif name == "error" and value.lower() in ("true", "false", "1", "0"):
            error = value.lower() in ("true", "1")
        elif name == "experimental" and equals:
            continue  # no rule here is experimental
        else:
            raise InvalidArgument(f"invalid check option {part.strip()!r}", field="check")
    return Policy(frozenset(skip), error)


def findings(dockerfile: Dockerfile, policy: Policy) -> list[Finding]:
    """What is found, in the order of the file."""
    if "all" in policy.skip:
        return []
    found = [item for rule in _RULES for item in rule(dockerfile) if item.rule not in policy.skip]
    return sorted(found, key=lambda item: (item.first, item.rule))


def _at(instruction: Instruction, rule: str, description: str, detail: str) -> Finding:
    return Finding(rule, description, detail, instruction.line, max(instruction.line, instruction.end_line))


def _all(dockerfile: Dockerfile) -> Iterator[Instruction]:
    yield from dockerfile.arguments
    for stage in dockerfile.stages:
        yield stage.start
        yield from (item for item in stage.instructions if item.line)


def _word(instruction: Instruction) -> str:
    """The keyword as it is written."""
    words = instruction.source.split(None, 1)
    return words[0] if words else instruction.keyword


def _casing(dockerfile: Dockerfile) -> Iterator[Finding]:
    words = [(item, _word(item)) for item in _all(dockerfile)]
    lower = sum(word.islower() for _, word in words)
    wanted = "lowercase" if lower > len(words) - lower else "uppercase"
    for item, word in words:
        if not (word.islower() if wanted == "lowercase" else word.isupper()):
            yield _at(
                item,
                "ConsistentInstructionCasing",
                "Instructions of one file should all be written in the same case",
                f"Command '{word}' should match the case of the command majority ({wanted})",
            )


def _from_casing(dockerfile: Dockerfile) -> Iterator[Finding]:
    for stage in dockerfile.stages:
        words = stage.start.source.split()
        joined = next((word for word in words[2:] if word.lower() == "as"), "")
        if joined and joined.isupper() != words[0].isupper():
            yield _at(
                stage.start,
                "FromAsCasing",
                "AS should be written in the case of its FROM",
                f"'{joined}' and '{words[0]}' keywords' casing do not match",
            )


def _names(dockerfile: Dockerfile) -> Iterator[Finding]:
    for stage in dockerfile.stages:
        words = stage.start.source.split()
        written = words[-1] if stage.name else ""
        if written != written.lower():
            yield _at(
                stage.start,
                "StageNameCasing",
                "Names of stages should be lower case",
                f"Stage name '{written}' should be lowercase",
            )
        if stage.name in RESERVED:
            yield _at(
                stage.start,
                "ReservedStageName",
                "Names that stand for something else should not be given to stages",
                f'Stage name should not use the same name as reserved stage "{stage.name}"',
            )


def _platforms(dockerfile: Dockerfile) -> Iterator[Finding]:
    for stage in dockerfile.stages:
        platform = stage.start.platform
        if platform in ("$TARGETPLATFORM", "${TARGETPLATFORM}"):
            yield _at(
                stage.start,
                "RedundantTargetPlatform",
                "The platform that is built for is what FROM takes on its own",
                f"Setting platform to predefined {platform} in FROM is redundant as this is the default behavior",
            )
        elif platform and "$" not in platform:
            yield _at(
                stage.start,
                "FromPlatformFlagConstDisallowed",
                "FROM should not name one platform for all builds",
                f'FROM --platform flag should not use constant value "{platform}"',
            )


def _maintainer(dockerfile: Dockerfile) -> Iterator[Finding]:
    for item in _all(dockerfile):
        if item.keyword == "MAINTAINER":
            yield _at(
                item,
                "MaintainerDeprecated",
                "MAINTAINER has given way to a label",
                "Maintainer instruction is deprecated in favor of using label",
            )


def _workdirs(dockerfile: Dockerfile) -> Iterator[Finding]:
    absolute: set[str] = set()
    for stage in dockerfile.stages:
        known = stage.start.base.lower() in absolute
        for item in stage.instructions:
            if item.keyword != "WORKDIR" or not isinstance(item, Text):
                continue
            if item.text.startswith(("/", "$")):
                known = True
            elif not known:
                yield _at(
                    item,
                    "WorkdirRelativePath",
                    "A relative working directory starts wherever the base image leaves off",
                    f'Relative workdir "{item.text}" can have unexpected results if the base image changes',
                )
        if known and stage.name:
            absolute.add(stage.name)


def _repeated(dockerfile: Dockerfile) -> Iterator[Finding]:
    for stage in dockerfile.stages:
        for keyword in ("CMD", "ENTRYPOINT", "HEALTHCHECK"):
            same = [item for item in stage.instructions if item.keyword == keyword and item.line]
            for item in same[:-1]:
                yield _at(
                    item,
                    "MultipleInstructionsDisallowed",
                    "Of several of these only the last one counts",
                    f"Multiple {keyword} instructions should not be used in the same stage "
                    "because only the last one will be used",
                )


def _shell_forms(dockerfile: Dockerfile) -> Iterator[Finding]:
    for stage in dockerfile.stages:
        has_shell = False
        for item in stage.instructions:
            has_shell = has_shell or item.keyword == "SHELL"
            if isinstance(item, Command) and item.shell and item.words and not has_shell:
                yield _at(
                    item,
                    "JSONArgsRecommended",
                    "A command in the shell's form does not get signals",
                    f"JSON arguments recommended for {item.keyword} to prevent unintended behavior "
                    "related to OS signals",
                )


def _legacy(dockerfile: Dockerfile) -> Iterator[Finding]:
    for item in _all(dockerfile):
        if item.keyword in ("ENV", "LABEL") and _LEGACY.match(item.source):
            yield _at(
                item,
                "LegacyKeyValueFormat",
                "Names and values are joined by = in all but old files",
                f'"{item.keyword} key=value" should be used instead of legacy "{item.keyword} key value" format',
            )


def _secrets(dockerfile: Dockerfile) -> Iterator[Finding]:
    for item in _all(dockerfile):
        names: list[str] = []
        if isinstance(item, Arg):
            names = [name for name, _ in item.arguments]
        elif isinstance(item, Env):
            names = [name for name, _ in item.pairs]
        for name in names:
            if _SECRET.search(name) and not _PUBLIC.search(name):
                yield _at(
                    item,
                    "SecretsUsedInArgOrEnv",
                    "What is secret should come by a secret mount: arguments and variables stay in the image",
                    f'Do not use ARG or ENV instructions for sensitive data ({item.keyword} "{name}")',
                )


_RULES: tuple[Callable[[Dockerfile], Iterator[Finding]], ...] = (
    _casing,
    _from_casing,
    _names,
    _platforms,
    _maintainer,
    _workdirs,
    _repeated,
    _shell_forms,
    _legacy,
    _secrets,
)
