"""Mount options in words, as config.json has them, and what they mean in flags. Pure.

Source: OCI runtime-spec 1.2, config.md "Linux mount options"; mount(8); mount_setattr(2).
"""

from __future__ import annotations

from services.executor.runtime.kernel import mountcalls as m

#: option -> (MS_* to set, MS_* to clear)
FLAGS: dict[str, tuple[int, int]] = {
    "defaults": (0, 0),
    "acl": (0, 0),
    "noacl": (0, 0),
    "async": (0, m.MS_SYNCHRONOUS),
    "atime": (0, m.MS_NOATIME),
    "bind": (m.MS_BIND, 0),
    "dev": (0, m.MS_NODEV),
    "diratime": (0, m.MS_NODIRATIME),
    "dirsync": (m.MS_DIRSYNC, 0),
    "exec": (0, m.MS_NOEXEC),
    "iversion": (m.MS_I_VERSION, 0),
    "lazytime": (m.MS_LAZYTIME, 0),
    "loud": (0, m.MS_SILENT),
    "mand": (m.MS_MANDLOCK, 0),
    "noatime": (m.MS_NOATIME, 0),
    "nodev": (m.MS_NODEV, 0),
    "nodiratime": (m.MS_NODIRATIME, 0),
    "noexec": (m.MS_NOEXEC, 0),
    "noiversion": (0, m.MS_I_VERSION),
    "nolazytime": (0, m.MS_LAZYTIME),
    "nomand": (0, m.MS_MANDLOCK),
    "norelatime": (0, m.MS_RELATIME),
    "nostrictatime": (0, m.MS_STRICTATIME),
    "nosuid": (m.MS_NOSUID, 0),
    "nosymfollow": (m.MS_NOSYMFOLLOW, 0),
    "rbind": (m.MS_BIND | m.MS_REC, 0),
    "relatime": (m.MS_RELATIME, 0),
    "remount": (m.MS_REMOUNT, 0),
    "ro": (m.MS_RDONLY, 0),
    "rw": (0, m.MS_RDONLY),
    "silent": (m.MS_SILENT, 0),
    "strictatime": (m.MS_STRICTATIME, 0),
    "suid": (0, m.MS_NOSUID),
    "symfollow": (0, m.MS_NOSYMFOLLOW),
    "sync": (m.MS_SYNCHRONOUS, 0),
}

#: option -> (propagation, recursive)
PROPAGATION: dict[str, tuple[int, bool]] = {
    "private": (m.MS_PRIVATE, False),
    "rprivate": (m.MS_PRIVATE, True),
    "shared": (m.MS_SHARED, False),
    "rshared": (m.MS_SHARED, True),
    "slave": (m.MS_SLAVE, False),
    "rslave": (m.MS_SLAVE, True),
    "unbindable": (m.MS_UNBINDABLE, False),
    "runbindable": (m.MS_UNBINDABLE, True),
}

#: what crun knows beside: how a bind mount takes symbolic links
LINKS = frozenset({"copy-symlink", "src-nofollow", "dest-nofollow"})
_ATIME = m.MOUNT_ATTR_ATIME_MASK

#: option -> (MOUNT_ATTR_* to set, to clear), for the mount and everything mounted below it
RECURSIVE: dict[str, tuple[int, int]] = {
    "rro": (m.MOUNT_ATTR_RDONLY, 0),
    "rrw": (0, m.MOUNT_ATTR_RDONLY),
    "rnosuid": (m.MOUNT_ATTR_NOSUID, 0),
    "rsuid": (0, m.MOUNT_ATTR_NOSUID),
    "rnodev": (m.MOUNT_ATTR_NODEV, 0),
    "rdev": (0, m.MOUNT_ATTR_NODEV),
    "rnoexec": (m.MOUNT_ATTR_NOEXEC, 0),
    "rexec": (0, m.MOUNT_ATTR_NOEXEC),
    "rnodiratime": (m.MOUNT_ATTR_NODIRATIME, 0),
    "rdiratime": (0, m.MOUNT_ATTR_NODIRATIME),
    "rrelatime": (0, _ATIME),
    "rnorelatime": (m.MOUNT_ATTR_STRICTATIME, _ATIME),
    "rnoatime": (m.MOUNT_ATTR_NOATIME, _ATIME),
    "ratime": (0, _ATIME),
    "rstrictatime": (m.MOUNT_ATTR_STRICTATIME, _ATIME),
    "rnostrictatime": (0, _ATIME),
    "rnosymfollow": (m.MOUNT_ATTR_NOSYMFOLLOW, 0),
    "rsymfollow": (0, m.MOUNT_ATTR_NOSYMFOLLOW),
}

#: MS_* of one mount point -> its MOUNT_ATTR_*
ATTRIBUTES: tuple[tuple[int, int], ...] = (
    (m.MS_RDONLY, m.MOUNT_ATTR_RDONLY),
    (m.MS_NOSUID, m.MOUNT_ATTR_NOSUID),
    (m.MS_NODEV, m.MOUNT_ATTR_NODEV),
    (m.MS_NOEXEC, m.MOUNT_ATTR_NOEXEC),
    (m.MS_NODIRATIME, m.MOUNT_ATTR_NODIRATIME),
    (m.MS_NOSYMFOLLOW, m.MOUNT_ATTR_NOSYMFOLLOW),
)


class MountOptions:
    """What a list of options asks for.

    Attributes:
        flags, cleared: MS_* set and explicitly cleared, the last mention of each deciding.
        propagation: (MS_SHARED | …, recursive) in the order given.
        recursive: (MOUNT_ATTR_* to set, to clear) for the whole tree.
        copy_up: a tmpfs begins with a copy of what it covers ("tmpcopyup").
        follow_source, follow_destination: false when a symbolic link there is meant itself ("src-nofollow",
            "dest-nofollow").
        copy_link: a symbolic link is made again, not mounted ("copy-symlink").
        idmap: None, "idmap" or "ridmap".
        data: what is left, for the filesystem, joined by commas.
    """

    __slots__ = (
        "cleared",
        "copy_link",
        "copy_up",
        "data",
        "flags",
        "follow_destination",
        "follow_source",
        "idmap",
        "propagation",
        "recursive",
    )

    def __init__(self, options: list[str]) -> None:
        self.flags = 0
        self.cleared = 0
        self.propagation: list[tuple[int, bool]] = []
        self.recursive = (0, 0)
        self.copy_up = False
        self.copy_link = "copy-symlink" in options
        self.follow_source = "src-nofollow" not in options
        self.follow_destination = "dest-nofollow" not in options
        self.idmap: str | None = None
        data: list[str] = []
        for option in options:
            if option in FLAGS:
                added, removed = FLAGS[option]
                self.flags = (self.flags | added) & ~removed
                self.cleared = (self.cleared | removed) & ~added
            elif option in PROPAGATION:
                self.propagation.append(PROPAGATION[option])
            elif option in RECURSIVE:
                added, removed = RECURSIVE[option]
                kept = (self.recursive[0] & ~removed) | added
                self.recursive = (kept, (self.recursive[1] & ~added) | removed)
            elif option == "tmpcopyup":
                self.copy_up = True
            elif option in {"idmap", "ridmap"}:
                self.idmap = option
            elif option not in LINKS:
                data.append(option)
        self.data = ",".join(data)

    @property
    def is_bind(self) -> bool:
        """Whether an existing tree is mounted a second time."""
        return bool(self.flags & m.MS_BIND)

    def attributes(self) -> tuple[int, int]:
        """(MOUNT_ATTR_* to set, to clear) that the plain flags mean on a mount that exists already."""
        added = sum(attribute for flag, attribute in ATTRIBUTES if self.flags & flag)
        removed = sum(attribute for flag, attribute in ATTRIBUTES if self.cleared & flag)
        if self.flags & m.MS_NOATIME:
            return added | m.MOUNT_ATTR_NOATIME, removed | _ATIME
        if self.flags & m.MS_STRICTATIME:
            return added | m.MOUNT_ATTR_STRICTATIME, removed | _ATIME
        if self.flags & m.MS_RELATIME or self.cleared & m.MS_NOATIME:
            return added, removed | _ATIME
        return added, removed
