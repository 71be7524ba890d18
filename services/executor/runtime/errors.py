"""What the runtime raises. A failure travels as data from init to shim to agent, and comes out as the same class.

    RuntimeFailure                 anything this runtime could not do
    ├── InvalidSpec                config.json (or an order) says something wrong; `field` names it
    ├── NotSupported               this kernel or this runtime cannot do it; `field` names it
    ├── NotFound                   no such container, process, file of ours
    ├── WrongState                 the container's status does not allow the operation, or the id is taken
    ├── KernelFailure              a system call said no: `syscall`, its object, `errno`
    ├── CommandFailure             the container's command cannot be executed (not found, not permitted, a directory)
    ├── UserFailure                the user or group asked for is not in the image
    ├── HookFailure                a hook ended badly or ran out of time
    ├── ForeignFailure             another runtime, which we were to use, says no
    └── Interrupted                the zygote or shim went away half-way; the order may be given again

Texts are lower case and name what could not be done, to what, and why. Those that Docker clients read are Docker's.
"""

from __future__ import annotations

import errno as _errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class RuntimeFailure(Exception):
    """Base of all.

    Attributes:
        step: the stage that failed ("namespaces", "mounts", "exec", …), or None.
        field: path of the field in config.json at fault ("linux.resources.memory.limit"), or None.
        errno: the kernel's error number, or None.
    """

    code = "failure"

    def __init__(
        self, message: str, *, step: str | None = None, field: str | None = None, errno: int | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.step = step
        self.field = field
        self.errno = errno

    def to_wire(self) -> dict[str, Any]:
        """The failure as plain data; `from_wire` is its inverse."""
        wire: dict[str, Any] = {"code": self.code, "message": self.message}
        for name in ("step", "field", "errno"):
            if getattr(self, name) is not None:
                wire[name] = getattr(self, name)
        return wire

    def at(self, step: str) -> RuntimeFailure:
        """The same failure, with the step filled in unless an inner one already did."""
        if self.step is None:
            self.step = step
        return self


class InvalidSpec(RuntimeFailure):
    """A field of the spec has no meaning, or contradicts another."""

    code = "invalid_spec"

    def __init__(self, field: str, problem: str, *, errno: int | None = None) -> None:
        super().__init__(f"{field}: {problem}", field=field, errno=errno)


class NotSupported(RuntimeFailure):
    """A field asks for what this kernel or this runtime cannot do."""

    code = "not_supported"

    def __init__(self, field: str, problem: str, *, errno: int | None = None) -> None:
        super().__init__(f"{field}: {problem}", field=field, errno=errno)


class NotFound(RuntimeFailure):
    """There is no such container or process."""

    code = "not_found"


class WrongState(RuntimeFailure):
    """The container exists, but its status does not allow this."""

    code = "wrong_state"


class KernelFailure(RuntimeFailure):
    """A system call failed; the text names it, what it was about, and the reason."""

    code = "kernel"

    def __init__(self, syscall: str, subject: str, errno: int, *, step: str | None = None) -> None:
        about = f"{syscall} {subject}" if subject else syscall
        super().__init__(f"{about}: {os.strerror(errno).lower()}", step=step, errno=errno)
        self.syscall = syscall
        self.subject = subject


class CommandFailure(RuntimeFailure):
    """The container's command cannot be executed; Docker makes exit code 127 (not found) or 126 of the text."""

    code = "command"

    @property
    def exit_code(self) -> int:
        """The shell convention that `docker run` follows."""
        return 127 if self.errno in {_errno.ENOENT, None} else 126


class UserFailure(RuntimeFailure):
    """The user or group is neither a number nor in the image's passwd or group file."""

    code = "user"


class HookFailure(RuntimeFailure):
    """A hook exited with a status other than zero, or did not end in time."""

    code = "hook"


class ForeignFailure(RuntimeFailure):
    """Another runtime could not do it; the text is its own."""

    code = "foreign"

    @classmethod
    def of(cls, text: str, blame: str = "") -> ForeignFailure:
        """A runtime's message. One that names the command `blame` may say that this cannot be executed, and why."""
        if not blame or blame not in text:
            return cls(text)
        lower = text.lower()
        if "executable file" in lower or "no such file or directory" in lower:
            return cls(text, errno=_errno.ENOENT)
        refused = "permission denied" in lower or "is a directory" in lower
        return cls(text, errno=_errno.EACCES if refused else None)

    @property
    def exit_code(self) -> int:
        """127, 126, or 128 where the command is not to blame."""
        return {_errno.ENOENT: 127, _errno.EACCES: 126}.get(self.errno or 0, 128)


class Interrupted(RuntimeFailure):
    """The process that was carrying out the order is gone; nothing of the order may be assumed. Safe to retry."""

    code = "interrupted"


def unforeseen(error: BaseException) -> RuntimeFailure:
    """A failure of ours, for the edge of a process that must tell of it and live on: what it was, and where."""
    place, trace = "", error.__traceback__
    while trace is not None:
        place = f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}"
        trace = trace.tb_next
    return RuntimeFailure(f"unexpected failure: {type(error).__name__}: {error} at {place}")


_CLASSES: dict[str, type[RuntimeFailure]] = {
    cls.code: cls
    for cls in (
        RuntimeFailure,
        InvalidSpec,
        NotSupported,
        NotFound,
        WrongState,
        KernelFailure,
        CommandFailure,
        UserFailure,
        HookFailure,
        ForeignFailure,
        Interrupted,
    )
}


def from_wire(wire: dict[str, Any]) -> RuntimeFailure:
    """The failure that `to_wire` described. An unknown code arrives as `RuntimeFailure`, its text kept."""
    cls = _CLASSES.get(wire.get("code", ""), RuntimeFailure)
    failure = cls.__new__(cls)
    RuntimeFailure.__init__(
        failure,
        str(wire.get("message", "unknown failure")),
        step=wire.get("step"),
        field=wire.get("field"),
        errno=wire.get("errno"),
    )
    if isinstance(failure, KernelFailure):
        failure.syscall, failure.subject = "", ""
    return failure
