"""Addresses as clients write them, refused in Docker's words.

Source: the reference engine's answers; IEEE 802, the group bit of an address.
"""

from __future__ import annotations

import ipaddress
import re

from shared.errors import InvalidArgument

MAC = re.compile(r"[0-9a-fA-F]{2}([:-][0-9a-fA-F]{2}){5}")


def check_ip(text: str, version: int, field: str) -> None:
    """Raises InvalidArgument for what is no address of this version of IP; nothing is none wanted."""
    try:
        if text and ipaddress.ip_address(text).version == version:
            return
    except ValueError:
        pass
    if text:
        raise InvalidArgument(f"invalid IPv{version} address: {text}", field=field)


def normal_mac(text: str) -> str:
    """With colons, in lower case."""
    return text.replace("-", ":").lower()


def check_mac(text: str, field: str) -> None:
    """Raises InvalidArgument for what no interface can have; nothing is none wanted."""
    if not text:
        return
    if not MAC.fullmatch(text):
        raise InvalidArgument(f"invalid MAC address: {text}", field=field)
    octets = bytes.fromhex(normal_mac(text).replace(":", ""))
    if octets[0] & 1:
        raise InvalidArgument(f"invalid MAC address: {text} is that of a group", field=field)
    if not any(octets):
        raise InvalidArgument(f"invalid MAC address: {text} is nobody's", field=field)
