"""The way from a method and a path to a route.

Paths without parameters are looked up, the others are tried by method and first segment: of some hundred routes a
request meets those of its resource, and most the only one.
"""

from __future__ import annotations

from collections.abc import Iterable

from services.api.routing import EdgeRoute


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
        return None


def _segment(path: str) -> str:
    return path.split("/", 2)[1] if path.startswith("/") else ""
