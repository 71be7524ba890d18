"""Which controllers there are, and importing the file of one when something is asked of it.

A command that lives for milliseconds pays for every module it imports, and most containers set few limits. Processes
that stay (and those that are about to fork) import all at once, with `Controllers.all`.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from services.executor.runtime.cgroups.interface import Controller


class Controllers:
    """The controllers of one version, in the order in which they are applied.

    Args:
        package: where the modules are.
        sections: controller, the object of linux.resources that its settings are in (or None, when it has none).
    """

    def __init__(self, package: str, sections: tuple[tuple[str, str | None], ...]) -> None:
        self._package = package
        self._sections = sections

    def wanted(self, resources: dict[str, Any]) -> Iterator[tuple[Controller, str]]:
        """Those that `resources` has settings for, with the first such field."""
        for name, section in self._sections:
            if section is not None and resources.get(section):
                controller = self.get(name)
                field = controller.wanted(resources)
                if field is not None:
                    yield controller, field

    def all(self) -> list[Controller]:
        """Every one."""
        return [self.get(name) for name, _ in self._sections]

    def get(self, name: str) -> Controller:
        """The module of one controller; `rdma` is the same on both versions."""
        package = "services.executor.runtime.cgroups" if name == "rdma" else self._package
        module: Any = __import__(f"{package}.{name}", fromlist=["NAME"])
        controller: Controller = module
        return controller
