"""The way from a method and a path to a route.

Paths without parameters are looked up, the others are tried by method and first segment: of some hundred routes a
request meets those of its resource, and most the only one.
"""

from __future__ import annotations

from collections.abc import Iterable

from services.api.routing import EdgeRoute

# Stands for the slash of a link's name while its path is matched.
_LINK = "\x00"


class Table:
    """Routes, in the order in which they are tried."""

    def __init__(self, routes: Iterable[EdgeRoute]) -> None:
        self._fixed: dict[tuple[str, str], EdgeRoute] = {}
        self._patterns: dict[tuple[str, str], list[EdgeRoute]] = {}
        for route in routes:
            for method in route.methods or ():
                if "{" in route.path:
                    self._patterns.setdefault((method, _segment(route.path)), []).append(route)
                else:
                    self._fixed[method, route.path] = route

    def find(self, method: str, path: str) -> tuple[EdgeRoute, dict[str, str]] | None:
        """The route, and the values of its path's parameters; None without one."""
        if (fixed := self._fixed.get((method, path))) is not None:
            return fixed, {}
        for route in self._patterns.get((method, _segment(path)), ()):
            if match := route.path_regex.match(path):
                return route, match.groupdict()
        return self._find_linked(method, path)

    def _find_linked(self, method: str, path: str) -> tuple[EdgeRoute, dict[str, str]] | None:
        """A container may be named by a link, ``/containers/web/db/json``: the name is two segments then."""
        parts = path.split("/", 4)
        if len(parts) < 4 or parts[1] != "containers" or not parts[2] or not parts[3]:
            return None
        joined = "/".join(["", parts[1], f"{parts[2]}{_LINK}{parts[3]}", *parts[4:]])
        for route in self._patterns.get((method, parts[1]), ()):
            if match := route.path_regex.match(joined):
                return route, {name: value.replace(_LINK, "/") for name, value in match.groupdict().items()}
        return None


def _segment(path: str) -> str:
    return path.split("/", 2)[1] if path.startswith("/") else ""
