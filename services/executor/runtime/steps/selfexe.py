"""Keep /proc/self/exe of a container's init from being a way to the host's interpreter (CVE-2019-5736).

Until execve, what the init runs is the interpreter, and a container can make it execute `#!/proc/self/exe`. Opened
through a read-only mount of its own that file can be written by nobody, whatever their privileges in the container.

Imports next to nothing: it is the first thing that happens, in a process that is replaced at once.
"""

from __future__ import annotations

import posix
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

# no collections, and no tidying up at the end: both are for processes that stay
_BOOT = """import sys
sys.path.insert(0, {root!r})
from services.executor.runtime.steps.selfexe import start
start(sys.argv[1:])
"""

_OPEN_TREE, _MOUNT_SETATTR = 428, 442
_AT_FDCWD, _AT_EMPTY_PATH, _CLONE_CLOEXEC = -100, 0x1000, 0x80001
_RDONLY_NOSUID = 0x1 | 0x2
_ST_RDONLY = 1


#: commands whose children are in containers as the interpreter, for others to see; `run` decides when it knows more
MAKING = frozenset({"create", "exec"})
#: global options that take a value
_VALUED = frozenset({"log", "log-format", "root", "criu", "rootless"})


def command_of(arguments: list[str]) -> str:
    """The command among davit-runc's arguments; "" when there is none."""
    words = iter(arguments)
    for word in words:
        if not word.startswith("-"):
            return word
        if word.lstrip("-") in _VALUED:
            next(words, "")
    return ""


def start(arguments: list[str]) -> NoReturn:
    """davit-runc from its first moment, in an interpreter that was started for nothing else."""
    import gc

    gc.disable()
    if command_of(arguments) in MAKING:
        protect(arguments)
    from services.executor.runtime.cli import main

    code = main(arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    posix._exit(code)


def protected_interpreter() -> int:
    """A descriptor of this interpreter's file on a read-only mount of its own, to execute it from.

    Raises:
        KernelFailure: EPERM, without CAP_SYS_ADMIN.
    """
    import _ctypes  # not `ctypes`, whose import takes longer than the rest of this

    path = posix.readlink("/proc/self/exe")
    syscall = _ctypes.dlsym(_ctypes.dlopen(None, 0), "syscall")  # type: ignore[arg-type]
    raw = path.encode(sys.getfilesystemencoding(), "surrogateescape")
    tree: int = _ctypes.call_function(syscall, (_OPEN_TREE, _AT_FDCWD, raw, _CLONE_CLOEXEC | _AT_EMPTY_PATH))
    attributes = _RDONLY_NOSUID.to_bytes(8, "little") + bytes(24)
    if tree < 0 or _ctypes.call_function(syscall, (_MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH, attributes, 32)) < 0:
        return _failed(path, tree)
    return tree


def _failed(path: str, tree: int) -> int:
    """Once more, by calls that say what went wrong."""
    from services.executor.runtime.kernel import mountcalls

    if tree >= 0:
        posix.close(tree)
    tree = mountcalls.clone_tree_at(path, recursive=False)
    try:
        mountcalls.set_attributes(tree, path, add=mountcalls.MOUNT_ATTR_RDONLY | mountcalls.MOUNT_ATTR_NOSUID)
    except BaseException:
        posix.close(tree)
        raise
    return tree


def needed() -> bool:
    """Whether the interpreter of this process could be written to, were a container to get hold of it.

    Who is not root cannot write to root's interpreter in the first place, and neither can the containers.
    """
    return posix.geteuid() == 0 and not posix.statvfs("/proc/self/exe").f_flag & _ST_RDONLY


def protect(arguments: list[str]) -> None:
    """Execute davit-runc again from the protected file, unless it is running from it already."""
    if not needed():
        return
    tree = protected_interpreter()
    root = __file__.rpartition("/services/")[0]
    command = [sys.executable, "-ISE", "-c", _BOOT.format(root=root), *arguments]
    posix.execve(f"/proc/self/fd/{tree}", command, posix.environ)
