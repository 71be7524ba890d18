"""Reading and writing the small files of cgroupfs, with errors that name the field of config.json at fault."""

from __future__ import annotations

import errno
import os

from services.executor.runtime.errors import InvalidSpec, KernelFailure, NotSupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

UNLIMITED = 2**64 - 1
"""What "max" reads as, the way runc prints it."""

_REFUSED = frozenset(
    {errno.EINVAL, errno.ERANGE, errno.EBUSY, errno.ENODEV, errno.EIO}
    | {errno.EOVERFLOW, errno.E2BIG, errno.EFBIG, errno.ENOSPC, errno.EDOM}
)


def write(directory: str, name: str, value: str | int, *, field: str | None = None) -> None:
    """Write `value` to `directory`/`name` in one write(2), which is what cgroupfs asks for.

    Raises:
        NotSupported: the file does not exist, or the kernel knows it but not what it stands for.
        InvalidSpec: the kernel refuses the value, and `field` says where it came from.
        KernelFailure: anything else.
    """
    try:
        write_raw(directory, name, value)
    except OSError as error:
        raise _translated(error, directory, name, value, field) from error


def write_raw(directory: str, name: str, value: str | int) -> None:
    """`write`, for callers that act on the error number: raises `OSError`."""
    fd = os.open(f"{directory}/{name}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, str(value).encode())
    finally:
        os.close(fd)


def write_settled(directory: str, values: Iterable[tuple[str, str | int, str]]) -> None:
    """Write files whose values are checked against each other, whatever order that takes.

    The kernel compares each write with what the other files say at that moment (a quota with the period, a burst with
    the quota), so what is right in the end may be refused on the way there: that one waits until the others are in.

    Args:
        values: file name, value, field.
    """
    waiting = list(values)
    while waiting:
        refused: list[tuple[tuple[str, str | int, str], OSError]] = []
        for entry in waiting:
            try:
                write_raw(directory, entry[0], entry[1])
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise _translated(error, directory, *entry) from error
                refused.append((entry, error))
        if len(refused) == len(waiting):
            first, reason = refused[0]
            raise _translated(reason, directory, *first) from reason
        waiting = [entry for entry, _ in refused]


def _translated(error: OSError, directory: str, name: str, value: str | int, field: str | None) -> Exception:
    number = error.errno or 0
    if field is not None:
        if number in {errno.ENOENT, errno.EOPNOTSUPP, errno.EACCES} and not os.path.exists(f"{directory}/{name}"):
            return NotSupported(field, f"this kernel has no {name}", errno=number)
        if number == errno.EOPNOTSUPP:
            return NotSupported(field, f"this kernel does not let {name} be set", errno=number)
        if number in _REFUSED:
            reason = os.strerror(number).lower()
            return InvalidSpec(field, f"write {value} to {directory}/{name}: {reason}", errno=number)
    failure = KernelFailure("write", f"{value} to {directory}/{name}", number, step="cgroups")
    failure.field = field
    return failure


def read(directory: str, name: str) -> str:
    """The text of a file, without the newline at its end.

    Raises:
        KernelFailure: it cannot be read.
    """
    path = f"{directory}/{name}"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            # The kernel hands out at most a page or so for each read of a seq_file.
            chunks = []
            while chunk := os.read(fd, 65536):
                chunks.append(chunk)
        finally:
            os.close(fd)
    except OSError as error:
        raise KernelFailure("read", path, error.errno or 0, step="cgroups") from error
    return b"".join(chunks).decode().rstrip("\n")


def read_optional(directory: str, name: str) -> str | None:
    """The text of a file, or None where this kernel, or this level of the hierarchy, has none such."""
    try:
        return read(directory, name)
    except KernelFailure as failure:
        if failure.errno in {errno.ENOENT, errno.EOPNOTSUPP, errno.ENODEV}:
            return None
        raise


def read_int(directory: str, name: str, missing: int = 0) -> int:
    """A file of one number; "max" is `UNLIMITED`; `missing` where there is no such file."""
    text = read_optional(directory, name)
    if text is None:
        return missing
    return UNLIMITED if text == "max" else int(text)


def flat(text: str | None) -> dict[str, int]:
    """Lines of `key number` as a dict; lines of another shape are left out."""
    found: dict[str, int] = {}
    for line in (text or "").splitlines():
        key, _, value = line.partition(" ")
        if value == "max":
            found[key] = UNLIMITED
        elif value.lstrip("-").isdigit():
            found[key] = int(value)
    return found


def nested(line: str) -> tuple[str, dict[str, str]]:
    """One line of `name key=value key=value`."""
    name, _, rest = line.partition(" ")
    return name, dict(part.split("=", 1) for part in rest.split() if "=" in part)


def id_list(text: str | None) -> list[int]:
    """The kernel's list format ("0-2,7") as numbers."""
    numbers: list[int] = []
    for part in (text or "").split(","):
        if part.strip():
            low, _, high = part.strip().partition("-")
            numbers.extend(range(int(low), int(high or low) + 1))
    return numbers


def section(resources: dict[str, Any], name: str) -> dict[str, Any]:
    """An object of linux.resources; an empty one where it is absent or null."""
    return resources.get(name) or {}
