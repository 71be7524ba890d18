"""Keep /proc/self/exe of a container's init from being a way to the host's interpreter (CVE-2019-5736).

Until execve, what the init runs is the interpreter, and a container can make it execute `#!/proc/self/exe`. Opened
through a read-only mount of its own that file can be written by nobody, whatever their privileges in the container.
"""

from __future__ import annotations

import os
import sys

from services.executor.runtime import mountcalls

# no collections, and no tidying up at the end: both are for processes that stay
_BOOT = """import gc, os, sys
gc.disable()
sys.path.insert(0, {root!r})
from services.executor.runtime.cli import main
code = main()
sys.stdout.flush()
sys.stderr.flush()
os._exit(code)
"""


def protected_interpreter() -> int:
    """A descriptor of this interpreter's file on a read-only mount of its own, to execute it from.

    Raises:
        KernelFailure: EPERM, without CAP_SYS_ADMIN.
    """
    path = os.path.realpath(sys.executable)
    tree = mountcalls.clone_tree_at(path, recursive=False)
    try:
        mountcalls.set_attributes(tree, path, add=mountcalls.MOUNT_ATTR_RDONLY | mountcalls.MOUNT_ATTR_NOSUID)
    except BaseException:
        os.close(tree)
        raise
    return tree


def is_protected() -> bool:
    """Whether this process was executed from a read-only mount."""
    return bool(os.statvfs("/proc/self/exe").f_flag & os.ST_RDONLY)


def protect(arguments: list[str]) -> None:
    """Execute davit-runc again from the protected file, unless it is running from it already.

    Who is not root cannot write to root's interpreter in the first place, and neither can the containers.
    """
    if os.geteuid() != 0 or is_protected():
        return
    tree = protected_interpreter()
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    command = [sys.executable, "-ISE", "-c", _BOOT.format(root=root), *arguments]
    os.execve(f"/proc/self/fd/{tree}", command, os.environ)
