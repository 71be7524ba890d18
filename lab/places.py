"""Where a lab keeps its things: one directory, and control groups of one name.

::

    <root>/<lab>/lab.json, lock        what the lab is, and has done to its links
                 .ns/<node>.net …       namespaces, bound to files so that they need no process
                 .keep/                the lab's own processes: relay, keeper, database
                 <node>/run            the node's /run/davit, with its docker.sock
                 <node>/data           its /var/lib/davit
                 <node>/etc            its /etc/davit
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from shared.errors import InvalidArgument, NotFound

DEFAULT_ROOT = Path("/var/lib/davit-lab")
# Longest path of a unix socket (108 bytes with the final NUL, unix(7)).
_LONGEST_SOCKET = 107


@dataclass(frozen=True)
class Places:
    """The paths of one lab."""

    root: Path
    lab: str

    @property
    def base(self) -> Path:
        return self.root / self.lab

    @property
    def record(self) -> Path:
        return self.base / "lab.json"

    @property
    def keep(self) -> Path:
        return self.base / ".keep"

    @property
    def namespaces(self) -> Path:
        return self.base / ".ns"

    @property
    def cgroup(self) -> str:
        """Below the root of each hierarchy; labs of one name in two places are two."""
        return f"davit-lab/{self.lab}-{hashlib.sha256(os.fsencode(self.base)).hexdigest()[:8]}"

    def node(self, name: str) -> Path:
        return self.base / name

    def socket(self, name: str) -> Path:
        """The Docker socket of a node, as this machine sees it."""
        return self.node(name) / "run" / "docker.sock"

    def check(self, nodes: list[str]) -> None:
        """Raise InvalidArgument when a socket's path would be longer than the kernel takes."""
        longest = max((self.socket(name) for name in nodes), key=lambda path: len(os.fsencode(path)))
        if len(os.fsencode(longest)) > _LONGEST_SOCKET:
            raise InvalidArgument(
                f"{longest} is longer than {_LONGEST_SOCKET} bytes, the most a unix socket's path may have: "
                "give --root a shorter directory"
            )


def existing(root: Path, name: str | None) -> Places:
    """The lab of that name, or the only one there is. Raises NotFound, InvalidArgument."""
    found = sorted(path.parent.name for path in root.glob("*/lab.json"))
    if name is None:
        if len(found) == 1:
            return Places(root, found[0])
        if not found:
            raise NotFound(f"there is no lab in {root}: davit lab up FILE starts one")
        raise InvalidArgument(f"there are several labs, say which by --lab: {', '.join(found)}")
    if name not in found:
        raise NotFound(f"there is no lab {name} in {root}")
    return Places(root, name)
