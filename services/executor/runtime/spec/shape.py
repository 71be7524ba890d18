"""Whether config.json, and process.json of an exec, have values of the right kind where the runtime will look for them.

Everything that reads a spec may then take a list for a list. What the specification does not know is passed over, and
null stands for absent, both as with runc.

Source: OCI runtime-spec 1.2, schema/config-schema.json and config-linux.json.
"""

from __future__ import annotations

from services.executor.runtime.errors import InvalidSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: a type with its name; a list of what is in brackets; an object with these members; {"*": …}, any members
_TEXT, _FLAG = (str, "a string"), (bool, "true or false")
_WHOLE, _COUNT = (int, "a whole number"), ("count", "a whole number of at least 0")
_IDS = [{"containerID": _COUNT, "hostID": _COUNT, "size": _COUNT}]
_HOOK = [{"path": _TEXT, "args": [_TEXT], "env": [_TEXT], "timeout": _WHOLE}]
_PRIORITY = {"class": _TEXT, "priority": _WHOLE}

PROCESS: dict[str, Any] = {
    "terminal": _FLAG,
    "consoleSize": {"height": _COUNT, "width": _COUNT},
    "user": {"uid": _COUNT, "gid": _COUNT, "umask": _COUNT, "additionalGids": [_COUNT], "username": _TEXT},
    "args": [_TEXT],
    "env": [_TEXT],
    "cwd": _TEXT,
    "capabilities": {"*": [_TEXT]},
    "rlimits": [{"type": _TEXT, "soft": _COUNT, "hard": _COUNT}],
    "noNewPrivileges": _FLAG,
    "apparmorProfile": _TEXT,
    "selinuxLabel": _TEXT,
    "oomScoreAdj": _WHOLE,
    "scheduler": {
        "policy": _TEXT,
        "flags": [_TEXT],
        **dict.fromkeys(("nice", "priority"), _WHOLE),
        **dict.fromkeys(("runtime", "deadline", "period"), _COUNT),
    },
    "ioPriority": _PRIORITY,
    "execCPUAffinity": {"initial": _TEXT, "final": _TEXT},
}
RESOURCES: dict[str, Any] = {
    "devices": [{"allow": _FLAG, "type": _TEXT, "major": _WHOLE, "minor": _WHOLE, "access": _TEXT}],
    **{name: {"*": ()} for name in ("memory", "cpu", "pids", "blockIO", "network", "rdma")},
    "hugepageLimits": [{"pageSize": _TEXT, "limit": _COUNT}],
    "unified": {"*": _TEXT},
}
_LINUX: dict[str, Any] = {
    "namespaces": [{"type": _TEXT, "path": _TEXT}],
    "uidMappings": _IDS,
    "gidMappings": _IDS,
    "timeOffsets": {"*": {"secs": _WHOLE, "nanosecs": _COUNT}},
    "devices": [{"path": _TEXT, "type": _TEXT, **dict.fromkeys(("major", "minor", "fileMode", "uid", "gid"), _WHOLE)}],
    "cgroupsPath": _TEXT,
    "resources": RESOURCES,
    "seccomp": {
        "defaultAction": _TEXT,
        "architectures": [_TEXT],
        "flags": [_TEXT],
        "syscalls": [{"names": [_TEXT], "action": _TEXT, "args": [{"index": _COUNT, "op": _TEXT}]}],
        "listenerPath": _TEXT,
        "listenerMetadata": _TEXT,
    },
    "sysctl": {"*": _TEXT},
    "maskedPaths": [_TEXT],
    "readonlyPaths": [_TEXT],
    "rootfsPropagation": _TEXT,
    "mountLabel": _TEXT,
    "personality": {"domain": _TEXT, "flags": [_TEXT]},
    "memoryPolicy": {"mode": _TEXT, "nodes": _TEXT, "flags": [_TEXT]},
    "netDevices": {"*": {"name": _TEXT}},
    "intelRdt": {"*": ()},
}
CONFIG: dict[str, Any] = {
    "ociVersion": _TEXT,
    "process": PROCESS,
    "root": {"path": _TEXT, "readonly": _FLAG},
    "hostname": _TEXT,
    "domainname": _TEXT,
    "mounts": [
        {
            "destination": _TEXT,
            "type": _TEXT,
            "source": _TEXT,
            "options": [_TEXT],
            "uidMappings": _IDS,
            "gidMappings": _IDS,
        }
    ],
    "hooks": dict.fromkeys(
        ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"), _HOOK
    ),
    "annotations": {"*": _TEXT},
    "linux": _LINUX,
}


def check(value: Any, shape: Any, field: str) -> None:
    """Raise unless `value` has the shape.

    Raises:
        InvalidSpec: names the first part that has not.
    """
    if value is None or shape == ():
        return
    if isinstance(shape, tuple):
        _check_scalar(value, shape, field)
    elif isinstance(shape, list):
        if not isinstance(value, list):
            raise InvalidSpec(field, "must be a list")
        for index, item in enumerate(value):
            check(item, shape[0], f"{field}[{index}]")
    else:
        if not isinstance(value, dict):
            raise InvalidSpec(field or "config.json", "must be an object")
        for name, item in value.items():
            inner = shape.get(name, shape.get("*", ()))
            if inner != ():
                check(item, inner, f"{field}.{name}" if field else name)


def _check_scalar(value: Any, shape: tuple[Any, str], field: str) -> None:
    kind, words = shape
    wanted = int if kind == "count" else kind
    fits = isinstance(value, wanted) and (wanted is bool or not isinstance(value, bool))
    if not fits or (kind == "count" and value < 0):
        raise InvalidSpec(field, f"must be {words}, not {value!r}")
