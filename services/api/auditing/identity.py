"""Who is at the other end of a connection, as far as the kernel and TLS say it.

What /proc tells is of the process that has connected, when its first request came. It may have been another program
then than it is now, and whoever has the socket may have got it from somebody else.

Source: unix(7), SO_PEERCRED and SO_PEERPIDFD; proc(5); RFC 5280 section 4.2.1.6.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pwd
import re
import select
from pathlib import Path
from typing import Any

import orjson

# No session: (uid_t) -1. Source: Linux, Documentation/ABI/stable/procfs-audit_loginuid.
_NO_LOGIN = "4294967295"
_CONTAINER = re.compile(r"(?:^|[/-])([0-9a-f]{64})(?:\.scope)?(?:/|$)", re.MULTILINE)


class Identity:
    """Who asks.

    Attributes:
        fields: For the record: ``name`` is there always.
        names: By which policies know them: ``uid:0``, ``user:root``, ``tls:ci``, ``container:…``.
        json: The fields as they are written, made once for a connection.
    """

    __slots__ = ("fields", "json", "names")

    def __init__(self, fields: dict[str, Any], names: tuple[str, ...]) -> None:
        self.fields = fields
        self.names = names
        self.json = orjson.Fragment(orjson.dumps(fields))


ANONYMOUS = Identity({"name": "anonymous"}, ("anonymous",))


def identity_of(peer: dict[str, Any] | None) -> Identity:
    """The identity of a connection's peer (see `services.api.hijack.peer_of`); made once, and kept with it."""
    if peer is None:
        return ANONYMOUS
    known: Identity | None = peer.get("identity")
    if known is None:
        known = peer["identity"] = _of_process(peer) if "uid" in peer else _of_certificate(peer)
    return known


def _of_certificate(peer: dict[str, Any]) -> Identity:
    name = f"tls:{peer['subject']}"
    fields = {"name": name, "subject": peer["subject"]}
    names = [name]
    for key in ("distinguished_name", "issuer", "serial"):
        if peer.get(key):
            fields[key] = peer[key]
    if peer.get("sans"):
        fields["sans"] = peer["sans"]
        names += [f"san:{san}" for san in peer["sans"]]
    if peer.get("fingerprint"):
        fields["fingerprint"] = peer["fingerprint"]
        names.append(f"fingerprint:{peer['fingerprint']}")
    return Identity(fields, tuple(names))


def _of_process(peer: dict[str, Any]) -> Identity:
    uid, gid, pid = peer["uid"], peer["gid"], peer["pid"]
    name = f"uid:{uid}"
    fields: dict[str, Any] = {"name": name, "uid": uid, "gid": gid, "pid": pid}
    names = [name, f"gid:{gid}"]
    if user := _user_name(uid):
        fields["user"] = user
        names.append(f"user:{user}")
    found = _seen_in_proc(pid)
    pidfd = peer.pop("pidfd", None)
    if pidfd is not None:
        if _has_ended(pidfd):  # what was seen may be of another process that has its number now
            found = {}
            fields["exited"] = True
        os.close(pidfd)
    fields |= found
    names += [f"{key}:{found[key]}" for key in ("loginuid", "exe", "container") if key in found]
    return Identity(fields, tuple(names))


@functools.lru_cache(maxsize=256)
def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""


def _seen_in_proc(pid: int) -> dict[str, Any]:
    """What is known of a process: nothing of one that is in another namespace of processes, or gone."""
    if pid <= 0:
        return {}
    directory = Path("/proc") / str(pid)
    found: dict[str, Any] = {}
    login = _text(directory / "loginuid").strip()
    if login and login != _NO_LOGIN:
        found["loginuid"] = int(login)
    with contextlib.suppress(OSError):  # ended, or another's, and this engine is not root
        found["exe"] = os.readlink(directory / "exe")
    if container := _CONTAINER.search(_text(directory / "cgroup")):
        found["container"] = container[1]
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _has_ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))
