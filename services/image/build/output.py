"""What a build tells its client: Docker's JSON lines, in the order of the Dockerfile.

Stages run side by side, but the client reads them one after the other, as a builder without that would have told: the
first unfinished stage speaks, what later ones say waits.

Source: Docker Engine API 1.50, ImageBuild; texts of the classic builder.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import orjson

from services.image.build.dockerfile.instructions import Instruction
from services.image.build.dockerfile.stages import Dockerfile

# A client that reads slowly holds the build back once so much waits for it.
MAX_WAITING_BYTES = 64 * 1024
RED, RESET = "\x1b[91m", "\x1b[0m"

Write = Callable[[bytes], Awaitable[None]]


def json_line(record: Mapping[str, Any]) -> bytes:
    return orjson.dumps(record) + b"\r\n"


def error_line(message: str, code: int | None = None) -> bytes:
    detail: dict[str, Any] = {"message": message} if code is None else {"code": code, "message": message}
    return json_line({"errorDetail": detail, "error": message})


class BuildOutput:
    """The whole build's output.

    Args:
        write: Takes finished lines, several at once; waits while the client is slow.
        quiet: Keep everything back; it is told only when the build fails.
    """

    def __init__(self, write: Write, *, quiet: bool = False) -> None:
        self._write = write
        self._waiting = bytearray()
        self._sender: asyncio.Task[None] | None = None
        self._quiet = quiet
        self._kept: list[bytes] = []
        self._stages: list[StageOutput] = []
        self._outputs: dict[int, StageOutput] = {}
        self.started = False

    async def plan(self, dockerfile: Dockerfile, needed: Sequence[int]) -> dict[int, StageOutput]:
        """An output for each stage, to be heard in this order."""
        outputs = {index: StageOutput(self) for index in needed}
        self._stages = list(outputs.values())
        self._outputs = outputs
        return outputs

    def of_stage(self, index: int) -> StageOutput:
        """What a stage has said."""
        return self._outputs[index]

    async def warn(self, text: str) -> None:
        await self.text(text)

    async def global_argument(self, number: int, total: int, instruction: Instruction) -> None:
        await self.text(f"Step {number}/{total} : {instruction.source}")
        await self.text("\n")

    async def line(self, record: Mapping[str, Any]) -> None:
        """Tell at once."""
        await self.raw(json_line(record))

    async def text(self, text: str) -> None:
        await self.line({"stream": text})

    async def raw(self, line: bytes) -> None:
        if self._quiet:
            self._kept.append(line)
            return
        await self._send(line)

    async def _send(self, line: bytes) -> None:
        """Have a line sent, together with those that follow at once: steps from the cache take no time."""
        self.started = True
        self._waiting += line
        if self._sender is not None and self._sender.done():
            self._sender.result()  # raises what a write has failed with
            self._sender = None
        if self._sender is None:
            self._sender = asyncio.create_task(self._send_waiting(), name="build output")
        elif len(self._waiting) > MAX_WAITING_BYTES:
            await asyncio.shield(self._sender)

    async def _send_waiting(self) -> None:
        while self._waiting:
            data, self._waiting = bytes(self._waiting), bytearray()
            await self._write(data)

    async def flush(self) -> None:
        """Wait until all that was told has been sent. Raises what a write failed with."""
        if self._sender is not None:
            await self._sender

    async def close(self) -> None:
        """Send nothing more."""
        if self._sender is not None:
            self._sender.cancel()
            await asyncio.gather(self._sender, return_exceptions=True)

    async def loud(self, record: Mapping[str, Any]) -> None:
        """Tell even when quiet."""
        await self._send(json_line(record))

    async def fail(self, message: str, code: int | None, stage: StageOutput | None) -> None:
        """Tell what was kept back, what the failing stage said, and the error."""
        for line in self._kept:
            await self._send(line)
        self._quiet, self._kept = False, []
        if stage is not None:
            await stage.flush()
        await self._send(error_line(message, code))

    def speaks(self, stage: StageOutput) -> bool:
        return stage not in self._stages or self._stages[0] is stage

    async def finished(self, stage: StageOutput) -> None:
        stage.done = True
        while self._stages and self._stages[0].done:
            self._stages.pop(0)
            if self._stages:
                await self._stages[0].flush()


class StageOutput:
    """One stage's output, told when it is its turn."""

    def __init__(self, build: BuildOutput) -> None:
        self._build = build
        self._waiting: list[bytes] = []
        self.done = False

    async def line(self, record: Mapping[str, Any]) -> None:
        line = json_line(record)
        if self._build.speaks(self):
            await self.flush()
            await self._build.raw(line)
        else:
            self._waiting.append(line)

    async def text(self, text: str) -> None:
        await self.line({"stream": text})

    async def step(
        self, number: int, total: int, instruction: Instruction, shown: Callable[[], Mapping[str, str]] | None
    ) -> None:
        await self.text(f"Step {number}/{total} : {instruction.source}")
        await self.text("\n")

    async def cached(self) -> None:
        await self.text(" ---> Using cache\n")

    async def running(self, container_id: str) -> None:
        await self.text(f" ---> Running in {short_id(container_id)}\n")

    async def removing(self, container_id: str) -> None:
        await self.text(f"Removing intermediate container {short_id(container_id)}\n")

    async def pulling(self, line: Mapping[str, Any]) -> None:
        await self.line(line)

    async def triggers(self, count: int) -> None:
        await self.text(f"# Executing {count} build trigger")
        if count > 1:
            await self.text("s")
        await self.text("\n")

    async def image(self, image_id: str) -> None:
        await self.line({"aux": {"ID": image_id}})

    async def result(self, image_id: str) -> None:
        await self.text(f" ---> {short_id(image_id)}\n")

    async def wrote(self, is_error: bool, text: str) -> None:
        await self.text(f"{RED}{text}{RESET}" if is_error else text)

    async def flush(self) -> None:
        while self._waiting:
            await self._build.raw(self._waiting.pop(0))

    async def finish(self) -> None:
        await self._build.finished(self)


def short_id(identifier: str) -> str:
    return identifier.removeprefix("sha256:")[:12]
