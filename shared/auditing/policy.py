"""What is recorded of which request: rules in a file, of which the first that matches decides.

::

    default: Request
    rules:
    - {level: None, resources: [system], verbs: [ping]}
    - {level: Metadata, subjects: ["user:prometheus", "container:*"], verbs: [list, inspect, stats]}
    - {level: RequestResponse, resources: [container], labels: {tier: prod}}

Source: Kubernetes, "Auditing", for the levels and the order.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.errors import InvalidArgument


class Level(enum.IntEnum):
    """How much of a request is recorded: who, what and how it ended; what was asked, too; the answer, too."""

    NONE = 0
    METADATA = 1
    REQUEST = 2
    REQUEST_RESPONSE = 3

    @property
    def word(self) -> str:
        return _WORDS[self]


_WORDS = {
    Level.NONE: "None",
    Level.METADATA: "Metadata",
    Level.REQUEST: "Request",
    Level.REQUEST_RESPONSE: "RequestResponse",
}
_LEVELS = {word: level for level, word in _WORDS.items()}
Word = Literal["None", "Metadata", "Request", "RequestResponse"]


class Rule(BaseModel):
    """One rule: what it does not name matches everything.

    Attributes:
        subjects: Patterns for any of the names of who asks, as ``uid:0``, ``user:alice``, ``tls:ci``, ``container:*``.
        verbs, resources: As in the records: ``start``, ``container``.
        objects: Patterns for the name or id in the request.
        labels: Of the object; the values are patterns.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    level: Word
    subjects: list[str] = Field(default_factory=list)
    verbs: list[str] = Field(default_factory=list)
    resources: list[str] = Field(default_factory=list)
    objects: list[str] = Field(default_factory=list)
    labels: dict[str, str] = Field(default_factory=dict)

    def rest_fits(self, subjects: Sequence[str], verb: str, resource: str, name: str) -> bool:
        return (
            (not self.verbs or _any(self.verbs, (verb,)))
            and (not self.resources or _any(self.resources, (resource,)))
            and (not self.objects or _any(self.objects, (name,)))
            and (not self.subjects or _any(self.subjects, subjects))
        )

    def labels_fit(self, labels: Mapping[str, str]) -> bool:
        return all(key in labels and fnmatchcase(labels[key], pattern) for key, pattern in self.labels.items())


class Decision(BaseModel):
    """Attributes: rule: the number of the rule that decided, from 1; 0 is the default."""

    model_config = ConfigDict(frozen=True)

    level: Level
    rule: int = 0


class Policy(BaseModel):
    """The rules in their order, and what holds for all else."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    default: Word = "Request"
    rules: list[Rule] = Field(default_factory=list)

    @classmethod
    def parse(cls, text: str, where: str) -> Policy:
        """The policy of a text in YAML (of which JSON is a part). Raises InvalidArgument, naming the place."""
        try:
            values: Any = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise InvalidArgument(
                f"the audit policy {where} is not valid YAML: {error}", field="audit-policy"
            ) from error
        try:
            return cls.model_validate(_with_words({} if values is None else values))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            raise InvalidArgument(f"the audit policy {where}: {place}: {first['msg']}", field="audit-policy") from error

    @classmethod
    def read(cls, path: str) -> Policy:
        """The policy of a file, or the built-in one when there is no path. Raises InvalidArgument."""
        if not path:
            return BUILT_IN
        try:
            return cls.parse(Path(path).read_text(), path)
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidArgument(f"the audit policy {path} cannot be read: {error}", field="audit-policy") from error

    def decide(
        self, subjects: Sequence[str], verb: str, resource: str, name: str = "", labels: Mapping[str, str] | None = None
    ) -> Decision | None:
        """What the first rule that matches says. None: a rule asks for labels, and they were not given."""
        for number, rule in enumerate(self.rules, 1):
            if not rule.rest_fits(subjects, verb, resource, name):
                continue
            if rule.labels:
                if labels is None:
                    return None
                if not rule.labels_fit(labels):
                    continue
            return _decision(_LEVELS[rule.level], number)
        return _decision(_LEVELS[self.default], 0)


@functools.cache
def _decision(level: Level, rule: int) -> Decision:
    return Decision(level=level, rule=rule)


def _any(patterns: Sequence[str], values: Sequence[str]) -> bool:
    return any(fnmatchcase(value, pattern) for pattern in patterns for value in values)


def _with_words(values: Any) -> Any:
    """YAML reads ``level: None`` as a text and ``level: null`` as nothing; both mean the level None."""
    if isinstance(values, dict) and isinstance(values.get("rules"), list):
        for rule in values["rules"]:
            if isinstance(rule, dict) and "level" in rule and rule["level"] is None:
                rule["level"] = "None"
    return values


# Clients ask for a ping before every command: it says nothing, and would be half of the log.
BUILT_IN = Policy(rules=[Rule(level="None", verbs=["ping"], resources=["system"])])
