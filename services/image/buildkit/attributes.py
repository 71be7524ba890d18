"""The attributes of an exporter: each is taken by who understands it, and what is left over is refused by name."""

from __future__ import annotations

import re
from collections.abc import Mapping

from shared.docker.words import parse_bool
from shared.errors import InvalidArgument, Unsupported

_ANNOTATION = re.compile(r"^annotation(?P<kind>-[a-z-]+)?(?:\[(?P<platform>[^\]]+)\])?\.(?P<key>.+)$")


class Attributes:
    """Args: exporter: its name, for errors."""

    def __init__(self, exporter: str, given: Mapping[str, str]) -> None:
        self.exporter = exporter
        self._given = dict(given)

    def text(self, name: str) -> str:
        return self._given.pop(name, "")

    def flag(self, name: str, default: bool = False) -> bool:
        """Raises InvalidArgument."""
        value = self._given.pop(name, "")
        if not value:
            return default
        try:
            return parse_bool(value)
        except InvalidArgument as error:
            raise InvalidArgument(f"non-bool value {value} specified for {name}", field=name) from error

    def annotations(self) -> dict[str, str]:
        """Those of the manifest of each image. Raises Unsupported for other places."""
        found = {}
        for name in [name for name in self._given if name.startswith("annotation")]:
            match = _ANNOTATION.match(name)
            if match is None:
                continue
            if match["kind"] not in (None, "-manifest") or match["platform"]:
                raise Unsupported(f"{name}: annotations are supported for manifests only", field=name)
            found[match["key"]] = self._given.pop(name)
        return found

    def finish(self) -> None:
        """Raises Unsupported for what nobody has taken."""
        if self._given:
            name = sorted(self._given)[0]
            raise Unsupported(
                f"the attribute {name} of the exporter {self.exporter} is not supported by this engine", field=name
            )
