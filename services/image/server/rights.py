"""Who may do what in which repository of the registry.

A file has rules; a user may do what any of them says::

    [
      {"users": ["ci"], "repositories": ["team/*"], "actions": ["pull", "push"]},
      {"users": ["@users"], "repositories": ["*"], "actions": ["pull"]},
      {"users": ["@anonymous"], "repositories": ["public/*"], "actions": ["pull"]}
    ]

`@users` are all who gave a password, `@anonymous` everybody. In names of repositories ``*`` stands for any text.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from shared.errors import InvalidArgument, Unavailable

Action = Literal["pull", "push", "delete"]
ALL: frozenset[Action] = frozenset(("pull", "push", "delete"))
USERS, ANYBODY = "@users", "@anonymous"


class Rule(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    users: list[Annotated[str, Field(min_length=1)]] = Field(min_length=1)
    repositories: list[Annotated[str, Field(min_length=1)]] = Field(min_length=1)
    actions: list[Action]

    def is_for(self, user: str) -> bool:
        """Args: user: Empty for one without a name."""
        return ANYBODY in self.users or bool(user and (user in self.users or USERS in self.users))

    def covers(self, repository: str) -> bool:
        return _pattern(tuple(self.repositories)).fullmatch(repository) is not None


@lru_cache(maxsize=1024)
def _pattern(names: tuple[str, ...]) -> re.Pattern[str]:
    parts = (".*".join(map(re.escape, name.split("*"))) for name in names)
    return re.compile("|".join(f"(?:{part})" for part in parts))


_RULES = TypeAdapter(list[Rule])


class Rights:
    """The rules of a file, read anew when it changes; without a file each user may do everything.

    Raises:
        Unavailable: The file cannot be read.
        InvalidArgument: It is no list of rules; the text says where.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._changed = 0.0
        self._rules = [Rule(users=[USERS], repositories=["*"], actions=sorted(ALL))]
        self._read()

    def _read(self) -> None:
        if self._path is None:
            return
        try:
            changed = self._path.stat().st_mtime
            if changed != self._changed:
                self._rules = _RULES.validate_json(self._path.read_bytes())
                self._changed = changed
        except OSError as error:
            raise Unavailable(f"the file of registry rights {self._path} cannot be read: {error.strerror}") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            text = f"{self._path}: {where}: {first['msg']}" if where else f"{self._path}: {first['msg']}"
            raise InvalidArgument(text, field="registry-rights") from error

    @property
    def name_anybody(self) -> bool:
        """Whether there is something that one without a name may do."""
        return any(ANYBODY in rule.users for rule in self._rules)

    def of(self, user: str, repository: str) -> frozenset[Action]:
        """What a user may do in a repository. Blocks. Args: user: Empty for one without a name."""
        self._read()
        return frozenset(
            action for rule in self._rules if rule.is_for(user) and rule.covers(repository) for action in rule.actions
        )
