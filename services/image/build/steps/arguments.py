"""Build arguments: who declared them, what they are worth, and where they can be seen.

::

    --build-arg         ┐            only names that are declared (or proxies) are ever seen
    ARG before FROM     ├─ global ─► FROM lines; a stage sees one once it declares it without a default
    platform facts      ┘
    ARG in a stage      ─► from there to the end of the stage, under ENV of the same name

Source: Dockerfile reference, "ARG", "Scope", "Predefined ARGs", "Automatic platform ARGs in the global scope".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from shared.docker import words

PREDEFINED = frozenset(
    name
    for upper in ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")
    for name in (upper, upper.lower())
)


# Arguments that speak to the builder, not to the Dockerfile. Source: docker buildx build, "Built-in build args".
KEEP_GIT_DIR = "BUILDKIT_CONTEXT_KEEP_GIT_DIR"
# Every image made here has what `--cache-from` needs in its history, so this one asks for what is so anyway.
INLINE_CACHE = "BUILDKIT_INLINE_CACHE"
FOR_THE_BUILDER = frozenset({KEEP_GIT_DIR, INLINE_CACHE})


def is_true(text: str | None) -> bool:
    """Whether an argument switches something on; an empty one does not."""
    return text in words.TRUE


class GlobalArguments:
    """What holds for the whole build.

    Args:
        given: From the request; a name without a value is declared as worth nothing.
        platform: Automatic ones such as ``TARGETARCH``.
    """

    def __init__(self, given: Mapping[str, str | None], platform: Mapping[str, str]) -> None:
        self._given = {name: value for name, value in given.items() if value is not None}
        self._names = set(given)
        self._values: dict[str, str] = dict(platform)
        self._used: set[str] = set(platform)

    def declare(self, name: str, default: str | None) -> None:
        self._used.add(name)
        value = self._given.get(name, default)
        if value is not None:
            self._values[name] = value

    def use(self, name: str) -> None:
        self._used.add(name)

    def given(self, name: str) -> str | None:
        return self._given.get(name)

    def visible(self) -> dict[str, str]:
        """What FROM lines see."""
        platform = {name: self._given[name] for name in self._values if name in self._given}
        return self._values | platform

    def inherited(self, name: str) -> str | None:
        """What a stage gets that declares a name without a default."""
        return self.visible().get(name)

    def predefined(self) -> dict[str, str]:
        return {name: value for name, value in self._given.items() if name in PREDEFINED}

    def unused(self) -> list[str]:
        """Given names that nothing declared, sorted."""
        return sorted(self._names - self._used - PREDEFINED - FOR_THE_BUILDER)


class StageArguments:
    """What one stage has declared so far."""

    def __init__(self, shared: GlobalArguments) -> None:
        self._shared = shared
        self._declared: dict[str, str | None] = {}

    def declare(self, name: str, default: str | None) -> None:
        self._shared.use(name)
        self._declared[name] = default

    def values(self, hidden: Iterable[str] = ()) -> dict[str, str]:
        """Names and values that commands see, without those that an ENV hides; sorted by name."""
        found = self._shared.predefined()
        for name, default in self._declared.items():
            value = self._shared.given(name)
            if value is None:
                value = self._shared.inherited(name) if default is None else default
            if value is not None:
                found[name] = value
        for name in hidden:
            found.pop(name, None)
        return dict(sorted(found.items()))

    def recorded(self, hidden: Iterable[str] = ()) -> dict[str, str]:
        """Those of `values` that history and cache keys keep: not the proxies, unless the Dockerfile declares them."""
        return {
            name: value
            for name, value in self.values(hidden).items()
            if name not in PREDEFINED or name in self._declared
        }
