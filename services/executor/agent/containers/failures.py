"""The runtime's failures as the engine's errors, with what Docker's clients read out of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from services.executor.runtime.errors import (
    CommandFailure,
    ForeignFailure,
    Interrupted,
    InvalidSpec,
    KernelFailure,
    NotFound,
    NotSupported,
    RuntimeFailure,
    UserFailure,
    WrongState,
)
from shared import errors

_CLASSES: tuple[tuple[type[RuntimeFailure], type[errors.DavitError]], ...] = (
    (CommandFailure, errors.InvalidArgument),
    (UserFailure, errors.InvalidArgument),
    (ForeignFailure, errors.InvalidArgument),
    (InvalidSpec, errors.InvalidArgument),
    (NotSupported, errors.InvalidArgument),
    (NotFound, errors.NotFound),
    (WrongState, errors.Conflict),
    (Interrupted, errors.Unavailable),
    (KernelFailure, errors.Internal),
)
CREATE_FAILED = "davit create failed: unable to start container process: "
NOT_EXECUTABLE, NOT_FOUND, NOT_STARTED = 126, 127, 128


def translate(failure: RuntimeFailure) -> errors.DavitError:
    """The failure in the engine's tree; `exit_code` in its detail where the container's command is to blame."""
    cls = next((ours for theirs, ours in _CLASSES if isinstance(failure, theirs)), errors.Internal)
    detail = {key: value for key, value in (("field", failure.field), ("step", failure.step)) if value}
    if isinstance(failure, CommandFailure):
        return cls(CREATE_FAILED + failure.message, exit_code=failure.exit_code, **detail)
    if isinstance(failure, ForeignFailure):
        return cls(failure.message, exit_code=failure.exit_code, **detail)
    if isinstance(failure, UserFailure):
        return cls(failure.message, **detail)
    if isinstance(failure, Interrupted):
        return cls(failure.message, **detail)
    return cls(CREATE_FAILED + failure.message, exit_code=code_of(failure.message), **detail)


def code_of(text: str) -> int:
    """The exit code that Docker, and its clients, read from why something did not start."""
    if "executable file not found" in text or "no such file or directory" in text:
        return NOT_FOUND
    return NOT_EXECUTABLE if "permission denied" in text or "is a directory" in text else NOT_STARTED


@contextmanager
def translated() -> Iterator[None]:
    """Calls of the runtime inside raise the engine's errors."""
    try:
        yield
    except RuntimeFailure as failure:
        raise translate(failure) from failure
