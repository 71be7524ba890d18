"""Control groups of the machine the tests run on, whichever version it has."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from services.executor.runtime.cgroups import detect
from services.executor.runtime.errors import RuntimeFailure
from tests.conftest import missing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from services.executor.runtime.cgroups.interface import Cgroup, CgroupBackend

PARENT = f"/davit-test-{os.getpid()}"


@pytest.fixture(scope="session")
def backend() -> Iterator[CgroupBackend]:
    """The machine's own; nothing of ours is left in it afterwards."""
    if os.geteuid() != 0:
        missing("root")
    try:
        found = detect()
    except RuntimeFailure as failure:
        pytest.skip(str(failure))
    yield found
    found.prune(PARENT)
    assert not found.open(PARENT).exists()


@pytest.fixture
def create(backend: CgroupBackend) -> Iterator[Callable[..., Cgroup]]:
    """Makes groups that are gone after the test, with what runs in them."""
    with ExitStack() as stack:
        count = 0

        def make(resources: dict[str, Any] | None = None) -> Cgroup:
            nonlocal count
            count += 1
            backend.validate(resources or {})
            group = backend.create(f"{PARENT}/group{count}", resources or {})

            def gone() -> None:
                group.kill()
                group.remove()

            stack.callback(gone)
            return group

        yield make


class Child:
    """A Python process that runs a piece of code when told to, inside the group it was put into."""

    def __init__(self, code: str) -> None:
        self.reader, writer = os.pipe()
        start, self.starter = os.pipe()
        self.pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-E", "-c", f"import os\nos.read(0, 1)\n{code}"],
            {},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, start, 0),
                (os.POSIX_SPAWN_DUP2, writer, 1),
                (os.POSIX_SPAWN_DUP2, writer, 2),
            ],
        )
        os.close(start)
        os.close(writer)
        self.status: int | None = None

    def go(self) -> None:
        os.write(self.starter, b"x")

    def line(self) -> str:
        """One line that it printed; "" at its end."""
        found = b""
        while not found.endswith(b"\n"):
            byte = os.read(self.reader, 1)
            if not byte:
                break
            found += byte
        return found.decode().rstrip("\n")

    def wait(self) -> int:
        """Its exit code; negative for a signal."""
        if self.status is None:
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.status

    def end(self) -> None:
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()
        os.close(self.reader)
        os.close(self.starter)


@pytest.fixture
def child() -> Iterator[Callable[..., Child]]:
    """Starts children, and ends them after the test."""
    children: list[Child] = []

    def start(code: str = "import time; time.sleep(60)", group: Cgroup | None = None, go: bool = True) -> Child:
        process = Child(code)
        children.append(process)
        if group is not None:
            group.add(process.pid)
        if go:
            process.go()
        return process

    yield start
    for process in children:
        process.end()


def eventually(condition: Callable[[], Any], timeout_s: float = 20) -> Any:
    """The first true answer of `condition`."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.01)
