"""A build's report as vertices: one for each step that makes files, named as people know them.

::

    [internal] load build context
    [build 2/4] RUN make             name of the stage where it has one or there are several; steps counted per stage

Steps that only change the configuration are no vertices.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from services.image.build.dockerfile.instructions import Copy, From, Instruction, Run
from services.image.build.dockerfile.lines import Heredoc
from services.image.build.dockerfile.stages import Dockerfile, Stage
from services.image.buildkit.progress import Progress, VertexLine
from services.image.buildkit.wire import control_pb2

VISIBLE = ("RUN", "COPY", "ADD", "WORKDIR")
_VARIABLE = re.compile(r"\\\$|\$(?:\{(?P<braced>\w+)\}|(?P<plain>\w+))")


class Vertices:
    """A whole build's report; see `BuildReport`.

    Args:
        platform: Shown with each step when a build is for several platforms.
        resolve: The full name of an image that FROM or ``--from`` names.
    """

    def __init__(self, progress: Progress, key: str, *, platform: str = "", resolve: Callable[[str], str]) -> None:
        self.progress = progress
        self.key = key
        self.platform = platform
        self.resolve = resolve
        self.started = False
        self.failed: str = ""

    async def plan(self, dockerfile: Dockerfile, needed: Sequence[int]) -> Mapping[int, StageVertices]:
        self.started = True
        single = len(dockerfile.stages) == 1
        names = {stage.name for stage in dockerfile.stages if stage.name}
        return {index: StageVertices(self, dockerfile.stages[index], alone=single, names=names) for index in needed}

    async def warn(self, text: str) -> None:
        warning = control_pb2.VertexWarning(level=1, short=re.sub(r"\x1b\[\d*m", "", text).strip().encode())
        self.progress.warn(warning)

    async def global_argument(self, number: int, total: int, instruction: Instruction) -> None:
        return


class StageVertices:
    """One stage's; see `StageReport`."""

    def __init__(self, build: Vertices, stage: Stage, *, alone: bool, names: Collection[str]) -> None:
        self._build = build
        self._stage = stage
        # What another stage made is not made again, and shown there.
        self._on_image = stage.start.base.lower() not in {*names, "scratch"}
        self._total = self._on_image + sum(instruction.keyword in VISIBLE for instruction in stage.instructions)
        name = stage.name or ("" if alone else f"stage-{stage.index}")
        self._prefix = " ".join(part for part in (build.platform, name) if part)
        self._number = 0
        self._line: VertexLine | None = None
        self._before: list[str] = []

    async def step(
        self, number: int, total: int, instruction: Instruction, shown: Callable[[], Mapping[str, str]] | None
    ) -> None:
        self._finish_line()
        if instruction.keyword not in VISIBLE and not (isinstance(instruction, From) and self._on_image):
            return
        self._number += 1
        text = _shown(instruction, shown() if shown is not None else {}, self._build.resolve)
        count = f"{self._number}/{self._total}"
        name = f"[{self._prefix} {count}] {text}" if self._prefix else f"[{count}] {text}"
        key = (self._build.key, str(self._stage.index), str(number))
        self._line = self._build.progress.vertex(name, *key, inputs=self._before)
        self._before = [self._line.digest]
        self._line.start()

    async def cached(self) -> None:
        if self._line is not None:
            self._line.cached()

    async def running(self, container_id: str) -> None:
        return

    async def removing(self, container_id: str) -> None:
        return

    async def wrote(self, is_error: bool, text: str) -> None:
        if self._line is not None:
            self._line.log(2 if is_error else 1, text.encode("utf-8", "surrogateescape"))

    async def pulling(self, line: Mapping[str, Any]) -> None:
        """Docker's progress records, as lines below the FROM."""
        if self._line is None or not line.get("id"):
            return
        detail = line.get("progressDetail") or {}
        done = line.get("status") in ("Pull complete", "Already exists", "Download complete")
        self._line.status(
            str(line["id"]), current=detail.get("current") or 0, total=detail.get("total") or 0, done=done
        )

    async def triggers(self, count: int) -> None:
        self._total += count

    async def result(self, image_id: str) -> None:
        self._finish_line()

    async def image(self, image_id: str) -> None:
        return

    async def finish(self) -> None:
        self._finish_line()

    def fail(self, error: str) -> str:
        """The line that was under way has failed; its digest, if there was one."""
        line, self._line = self._line, None
        if line is None:
            return ""
        line.finish(error)
        return line.digest

    def _finish_line(self) -> None:
        if self._line is not None:
            self._line.finish()
            self._line = None


def _shown(instruction: Instruction, variables: Mapping[str, str], resolve: Callable[[str], str]) -> str:
    if isinstance(instruction, From):
        return f"FROM {resolve(_replaced(instruction.base, variables))}"
    text = instruction.source
    if isinstance(instruction, Run | Copy):
        docs = instruction.heredocs
        text = _with_heredocs(text, list(docs.values()) if isinstance(docs, dict) else list(docs))
    return _replaced(text, variables)


def _with_heredocs(text: str, docs: Sequence[Heredoc]) -> str:
    """As BuildKit shortens them: the first line of what follows, in brackets."""
    if not docs:
        return text
    first = docs[0].content.strip().partition("\n")
    return f"{text} ({first[0]}{'...' if first[2] else ''})" if first[0] else text


def _replaced(text: str, variables: Mapping[str, str]) -> str:
    """Variables replaced where they have a value; quotes and all else stay as written."""

    def value(match: re.Match[str]) -> str:
        name = match["braced"] or match["plain"]
        return variables.get(name, match[0]) if name else match[0]

    return _VARIABLE.sub(value, text)
