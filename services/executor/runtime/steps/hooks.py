"""Hooks: programs run at points of a container's life, with its state on stdin.

Source: OCI runtime-spec 1.2, config.md "POSIX-platform Hooks".
"""

from __future__ import annotations

import os
import select
import time

from services.executor.runtime import jsonlite
from services.executor.runtime.errors import HookFailure, InvalidSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

KINDS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
_MOST_OUTPUT_BYTES = 4096
_LOOK_AGAIN_MS = 20.0


def validate(hooks: dict[str, Any]) -> None:
    """Refuse hooks that could not be run; kinds that the specification does not know are passed over."""
    for kind, entries in hooks.items():
        if kind not in KINDS:
            continue
        for i, hook in enumerate(entries or []):
            field = f"hooks.{kind}[{i}]"
            if not os.path.isabs(str(hook.get("path") or "")):
                raise InvalidSpec(f"{field}.path", "must be an absolute path")
            timeout = hook.get("timeout")
            if timeout is not None and timeout <= 0:
                raise InvalidSpec(f"{field}.timeout", "must be more than zero")


def run(
    kind: str,
    hooks: dict[str, list[dict[str, Any]]],
    state: dict[str, Any],
    environment: dict[str, str] | None = None,
    *,
    directory: int | None = None,
) -> None:
    """Run all hooks of one kind, in order; the first that fails ends it.

    Args:
        directory: descriptor of where they run; ours by default.
        environment: of a hook that says nothing of its own; ours by default, as with runc.

    Raises:
        HookFailure: it exited with another status than 0, could not be run, or took longer than its timeout.
    """
    for i, hook in enumerate(hooks.get(kind) or []):
        _run_one(f"error running {kind} hook #{i}", hook, jsonlite.dumps(state).encode(), environment, directory)


def run_all(kind: str, hooks: dict[str, list[dict[str, Any]]], state: dict[str, Any]) -> list[HookFailure]:
    """Run all hooks of one kind, in order, whether or not they fail; answers the failures, to be logged.

    Source: runtime.md "Lifecycle", of poststop.
    """
    failures: list[HookFailure] = []
    for i, hook in enumerate(hooks.get(kind) or []):
        try:
            _run_one(f"error running {kind} hook #{i}", hook, jsonlite.dumps(state).encode(), None)
        except HookFailure as failure:
            failures.append(failure)
    return failures


def _run_one(
    what: str,
    hook: dict[str, Any],
    state: bytes,
    environment: dict[str, str] | None,
    directory: int | None = None,
) -> None:
    stdin_read, stdin_write = os.pipe2(os.O_CLOEXEC)
    out_read, out_write = os.pipe2(os.O_CLOEXEC)
    error_read, error_write = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        if directory is not None:
            os.fchdir(directory)
        own = hook.get("env")
        if own is not None:
            environment = dict(entry.split("=", 1) for entry in own if "=" in entry)
        _become(hook, dict(os.environ) if environment is None else environment, stdin_read, out_write, error_write)
    for fd in (stdin_read, out_write, error_write):
        os.close(fd)
    _feed(stdin_write, state)
    timeout = hook.get("timeout")
    output = {out_read: b"", error_read: b""}
    try:
        _await_end(pid, output, None if timeout is None else time.monotonic() + timeout)
    except TimeoutError:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        raise HookFailure(
            f"{what}: hook ran past specified timeout of {float(timeout or 0):.1f}s", step="hooks"
        ) from None
    finally:
        os.close(out_read)
        os.close(error_read)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status != 0:
        how = f"exit status {status}" if status > 0 else f"signal: {_signal_name(-status)}"
        out, error = (output[fd].decode(errors="replace").strip() for fd in (out_read, error_read))
        raise HookFailure(f"{what}: error running hook: {how}, stdout: {out}, stderr: {error}", step="hooks")


def _signal_name(number: int) -> str:
    """strsignal(3)."""
    import _signal  # type: ignore[import-not-found]  # `signal` itself costs an enum module

    return (_signal.strsignal(number) or str(number)).lower()


def _feed(fd: int, state: bytes) -> None:
    """Write the state. A hook that does not read it is within its rights; a state is smaller than a pipe."""
    try:
        os.write(fd, state)
    except BrokenPipeError:
        return
    finally:
        os.close(fd)


def _await_end(pid: int, output: dict[int, bytes], deadline: float | None) -> None:
    """Collect output until the hook has ended; what its own children still hold open is not waited for.

    Raises:
        TimeoutError: it has not, at the deadline.
    """
    pidfd = _end_of(pid)
    poller = select.poll()
    for fd in (*output, *([] if pidfd is None else [pidfd])):
        poller.register(fd, select.POLLIN)
    open_fds = set(output)
    ended = False
    try:
        while open_fds or not ended:
            ready = [fd for fd, _ in poller.poll(_wait_ms(deadline, blind=pidfd is None))]
            for fd in set(ready) & open_fds:
                data = os.read(fd, 65536)
                output[fd] = (output[fd] + data)[:_MOST_OUTPUT_BYTES]
                if not data:
                    poller.unregister(fd)
                    open_fds.discard(fd)
            if not set(ready) & set(output):
                ended = _has_ended(pid) if pidfd is None else pidfd in ready
                if ended:
                    return
                if deadline is not None and time.monotonic() >= deadline:
                    raise TimeoutError
    finally:
        if pidfd is not None:
            os.close(pidfd)


def _end_of(pid: int) -> int | None:
    """A descriptor that tells of the process's end; None where a system call filter of the container's forbids it."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


def _has_ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _wait_ms(deadline: float | None, *, blind: bool) -> float | None:
    left = None if deadline is None else max(0.0, (deadline - time.monotonic()) * 1000)
    if not blind:
        return left
    return _LOOK_AGAIN_MS if left is None else min(left, _LOOK_AGAIN_MS)


def _become(hook: dict[str, Any], environment: dict[str, str], stdin: int, out: int, error: int) -> None:
    """In the child: execve the hook, with only the standard descriptors."""
    try:
        os.dup2(stdin, 0)
        os.dup2(out, 1)
        os.dup2(error, 2)
        from services.executor.runtime.kernel import calls as kernel

        kernel.close_from(3)
        kernel.restore_signals()
        os.execve(hook["path"], hook.get("args") or [hook["path"]], environment)
    except OSError as failure:
        os.write(2, f"exec {hook['path']}: {(failure.strerror or '').lower()}".encode())
    finally:
        os._exit(127)
