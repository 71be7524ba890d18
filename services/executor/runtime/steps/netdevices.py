"""Network devices of the host that a container gets (`linux.netDevices`), moved into its network namespace.

The runtime moves them, since only it has the host's namespace and the right to; moving takes a device down and its
addresses away, so the container's init, which is in the new namespace, gives it those back and brings it up. What
becomes of a device when the namespace goes is the kernel's business.

Source: OCI runtime-spec 1.3, config-linux.md "Network Devices"; rtnetlink(7).
"""

from __future__ import annotations

import _socket
import errno
import os

from services.executor.runtime.errors import InvalidSpec, KernelFailure, RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

_RTM_NEWLINK, _RTM_NEWADDR, _RTM_GETADDR = 16, 20, 22
_REQUEST, _ACK, _DUMP, _CREATE, _EXCLUSIVE = 0x1, 0x4, 0x300, 0x400, 0x200
_ERROR, _DONE = 2, 3
_IFLA_IFNAME, _IFLA_NET_NS_FD = 3, 28
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST = 1, 2, 4
_IFA_F_PERMANENT, _SCOPE_UNIVERSE = 0x80, 0
_IFF_UP = 1
_LONGEST_NAME = 15
_HEADER = 16


def validate(devices: dict[str, Any]) -> None:
    """Refuse names that no device can have, and two devices of one name.

    Raises:
        InvalidSpec: names the device.
    """
    seen: set[str] = set()
    for name, entry in devices.items():
        inside = _name_inside(name, entry)
        for word in (name, inside):
            if not _can_be_named(word):
                raise InvalidSpec(f"linux.netDevices.{name}", f'invalid network device name "{word}"')
        if inside in seen:
            raise InvalidSpec(f"linux.netDevices.{name}.name", f'two devices cannot be called "{inside}"')
        seen.add(inside)


def _can_be_named(name: str) -> bool:
    """As the kernel's dev_valid_name."""
    if name in {"", ".", ".."} or len(name.encode()) > _LONGEST_NAME:
        return False
    return not any(character in "/:" or character.isspace() for character in name)


def move(devices: dict[str, Any], namespace: int) -> list[dict[str, Any]]:
    """Move devices of our network namespace into the one of the descriptor; returns what `set_up` there needs.

    Raises:
        RuntimeFailure: there is no such device.
        KernelFailure: a name is taken there, no privilege.
    """
    moved = []
    indexes = {name: _index(name) for name in devices}
    with _Route() as route:
        for name, index in indexes.items():
            inside = _name_inside(name, devices[name])
            addresses = [_portable(data) for data in route.dump_addresses() if _is_to_keep(data, index)]
            attributes = _attribute(_IFLA_IFNAME, inside.encode() + b"\0")
            attributes += _attribute(_IFLA_NET_NS_FD, namespace.to_bytes(4, "little"))
            route.ask(_RTM_NEWLINK, 0, _link(index) + attributes, f"move network device {name}")
            moved.append({"name": inside, "addresses": addresses})
    return moved


def _index(name: str) -> int:
    try:
        return _socket.if_nametoindex(name)
    except OSError:
        raise RuntimeFailure(
            f"link not found for interface {name} on runtime namespace", field=f"linux.netDevices.{name}"
        ) from None


def _name_inside(name: str, entry: dict[str, Any] | None) -> str:
    return (entry or {}).get("name") or name


def check_free(devices: dict[str, Any]) -> None:
    """Refuse names that our namespace, which the devices are to come to, has already.

    The kernel finds that out only when the device has been moved.

    Raises:
        KernelFailure: EEXIST.
    """
    taken = {name for _, name in _socket.if_nameindex()}
    for name, entry in devices.items():
        if _name_inside(name, entry) in taken:
            raise KernelFailure("rtnetlink", f"move network device {name}", errno.EEXIST, step="network devices")


def set_up(moved: list[dict[str, Any]]) -> None:
    """Give devices, now of our namespace, their addresses, and bring them up.

    Raises:
        KernelFailure: an address or the device is refused.
    """
    with _Route() as route:
        for device in moved:
            index = _socket.if_nametoindex(device["name"])
            for family, prefix, attributes in device["addresses"]:
                head = bytes([family, prefix, _IFA_F_PERMANENT, _SCOPE_UNIVERSE]) + index.to_bytes(4, "little")
                data = head + bytes.fromhex(attributes)
                route.ask(_RTM_NEWADDR, _CREATE | _EXCLUSIVE, data, f"address of network device {device['name']}")
            route.ask(_RTM_NEWLINK, 0, _link(index, up=True), f"set up network device {device['name']}")


def _link(index: int, *, up: bool = False) -> bytes:
    """struct ifinfomsg."""
    flags = _IFF_UP if up else 0
    return bytes(4) + index.to_bytes(4, "little") + flags.to_bytes(4, "little") * 2


def _is_to_keep(data: bytes, index: int) -> bool:
    """Whether an address (struct ifaddrmsg) was given to the device for good, and means something elsewhere too."""
    of = int.from_bytes(data[4:8], "little")
    return of == index and bool(data[2] & _IFA_F_PERMANENT) and data[3] == _SCOPE_UNIVERSE


def _portable(data: bytes) -> tuple[int, int, str]:
    """Family, prefix length, and in hexadecimal the attributes that say which address."""
    wanted = {_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST}
    kept = b"".join(_attribute(kind, value) for kind, value in _attributes(data[8:]) if kind in wanted)
    return data[0], data[1], kept.hex()


def _attribute(kind: int, value: bytes) -> bytes:
    """struct rtattr."""
    length = 4 + len(value)
    return length.to_bytes(2, "little") + kind.to_bytes(2, "little") + value + bytes(-length % 4)


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= 4:
        length = int.from_bytes(data[:2], "little")
        yield int.from_bytes(data[2:4], "little"), data[4:length]
        data = data[(length + 3) & ~3 :]


class _Route:
    """A conversation with rtnetlink, in the network namespace that we are in when it begins."""

    def __init__(self) -> None:
        self._socket = _socket.socket(_socket.AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, 0)

    def __enter__(self) -> _Route:
        return self

    def __exit__(self, *_error: object) -> None:
        self._socket.close()

    def ask(self, kind: int, flags: int, data: bytes, subject: str) -> None:
        """Send one request and wait for the kernel's word on it."""
        self._send(kind, flags | _ACK, data)
        for answer, body in self._messages():
            if answer == _ERROR:
                self._raise_unless_well(body, subject)
                return

    def dump_addresses(self) -> list[bytes]:
        """The addresses of all devices, each a struct ifaddrmsg with its attributes."""
        self._send(_RTM_GETADDR, _DUMP, bytes(8))
        found: list[bytes] = []
        while True:
            for kind, body in self._messages():
                if kind == _DONE:
                    return found
                if kind == _ERROR:
                    self._raise_unless_well(body, "addresses")
                if kind == _RTM_NEWADDR:
                    found.append(body)

    def _send(self, kind: int, flags: int, data: bytes) -> None:
        head = (_HEADER + len(data)).to_bytes(4, "little") + kind.to_bytes(2, "little")
        os.write(self._socket.fileno(), head + (flags | _REQUEST).to_bytes(2, "little") + bytes(8) + data)

    def _messages(self) -> Iterator[tuple[int, bytes]]:
        """What one datagram holds."""
        data = self._socket.recv(1 << 16)
        while len(data) >= _HEADER:
            length = int.from_bytes(data[:4], "little")
            yield int.from_bytes(data[4:6], "little"), data[_HEADER:length]
            data = data[(length + 3) & ~3 :]

    @staticmethod
    def _raise_unless_well(body: bytes, subject: str) -> None:
        number = -int.from_bytes(body[:4], "little", signed=True)
        if number:
            raise KernelFailure("rtnetlink", subject, number, step="network devices")
