"""What of an answer is recorded, at the level RequestResponse: fields that are declared here, and no other value.

An answer is made of what the engine has, so that it holds what containers were given: their environment, their
commands, their labels. Of keys that are not listed only their presence is recorded.
"""

from __future__ import annotations

from typing import Any

import orjson

from shared.auditing.secret import HIDDEN, Masking

LARGEST_BYTES = 64 * 1024
_SHOWN_KEYS = """
    Id ID Name Names Image ImageID Status State Created CreatedAt Driver Scope Mountpoint Warning Warnings StatusCode
    ExitCode Running Paused Restarting OOMKilled Dead Pid StartedAt FinishedAt RestartCount Platform Type Size SizeRw
    SizeRootFs VirtualSize SharedSize RepoTags RepoDigests ParentId Ports IP PrivatePort PublicPort Protocol NetworkMode
    NetworkID EndpointID Gateway IPAddress IPPrefixLen MacAddress Internal Attachable EnableIPv6 EnableIPv4 Deleted
    Untagged ContainersDeleted ImagesDeleted VolumesDeleted NetworksDeleted CachesDeleted SpaceReclaimed message
    Privileged ReadonlyRootfs User Architecture Os OSType ApiVersion Version MinAPIVersion ContainerID OpenStdin
    CanRemove Health FailingStreak Containers Images Volumes Networks Mounts HostConfig Config NetworkSettings
    RestartPolicy MaximumRetryCount Destination Source RW Propagation Mode Count RefCount UsageData
"""
_SHOWN = frozenset(_SHOWN_KEYS.split())


def recorded(data: bytes, masking: Masking) -> Any:
    """An answer's body as it may be recorded; its length alone when it is no JSON, or too long."""
    if len(data) > LARGEST_BYTES:
        return {"bytes_more_than": LARGEST_BYTES}
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        return {"bytes": len(data)}
    return _shown(value, masking)


def _shown(value: Any, masking: Masking) -> Any:
    match value:
        case dict():
            return {
                key[:256]: _shown(item, masking)
                if key in _SHOWN
                else HIDDEN
                if item not in (None, "", [], {})
                else item
                for key, item in value.items()
            }
        case list():
            return [_shown(item, masking) for item in value]
        case str():
            return masking.text(value)
        case float():
            return str(value)
        case _:
            return value
