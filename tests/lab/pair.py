"""An engine on Postgres whose stateless services all run twice."""

from __future__ import annotations

from types import TracebackType

from tests.lab.engine import DAVIT, ROOT, Engine
from tests.lab.netns import run
from tests.lab.postgres import Postgres

STATELESS = "image,network,volume,control"


class PostgresPair:
    """The engine proper, and a second set of services on the same bus and database."""

    def __init__(self) -> None:
        self.engine = Engine()
        self._postgres: Postgres | None = None
        self._second = self.engine.base / "run2"

    def _davit(self, *arguments: str, check: bool = True) -> None:
        run(*self.engine.netns.enter, str(DAVIT), *arguments, check=check, env=self.engine.environment, cwd=ROOT)

    def __enter__(self) -> PostgresPair:
        self.engine.netns.__enter__()
        try:
            self._postgres = Postgres(self.engine.netns).__enter__()
            self.engine.arguments = ("--database", self._postgres.url)
            self.engine.up()
            self._davit(
                "up", "--detach", "--data-root", str(self.engine.data), "--run-dir", str(self._second),
                "--services", STATELESS, "--nats", self.engine.nats_url(), "--database", self._postgres.url,
            )  # fmt: skip
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._second.exists():
            self._davit("down", "--run-dir", str(self._second), check=False)
        if self._postgres is not None:
            self.engine.davit("down", "--containers", check=False)
            self._postgres.__exit__(None, None, None)
        self.engine.close()
