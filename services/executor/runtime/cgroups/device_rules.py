"""The meaning of a list of device rules, worked out once for both versions.

v1 keeps a default and a list of exceptions to it, changed by each line written; v2 has a program that is asked for
every access. Both start from what the list amounts to in the end, which is what this module computes.

Source: runtime-spec config-linux.md#allowed-device-list; kernel security/device_cgroup.c.
"""

from __future__ import annotations

from services.executor.runtime.errors import InvalidSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

WILDCARD = -1

# Making device nodes is harmless while opening them is not, and the rest is what every container needs: runc adds these
# to whatever a spec says, and images rely on it. Source: runc libcontainer/specconv, AllowedDevices.
ALWAYS_ALLOWED: tuple[dict[str, Any], ...] = (
    {"allow": True, "type": "c", "access": "m"},
    {"allow": True, "type": "b", "access": "m"},
    *(
        {"allow": True, "type": "c", "major": major, "minor": minor, "access": "rwm"}
        for major, minor in (
            (1, 3),  # null
            (1, 8),  # random
            (1, 7),  # full
            (5, 0),  # tty
            (1, 5),  # zero
            (1, 9),  # urandom
            (5, 1),  # console
            (136, None),  # pseudo terminals
            (5, 2),  # ptmx
            (10, 200),  # net/tun
        )
    ),
)
_ORDER = "rwm"

if TYPE_CHECKING:
    Device = tuple[str, int, int]
    """Type "b" or "c", major, minor; `WILDCARD` for any."""


class DeviceRules:
    """A default and the exceptions to it.

    Attributes:
        allow_by_default: what happens to an access that no exception covers.
        exceptions: the accesses (subset of "rwm") that are decided the other way, by device.
    """

    __slots__ = ("allow_by_default", "exceptions")

    def __init__(self, allow_by_default: bool, exceptions: dict[Device, frozenset[str]] | None = None) -> None:
        self.allow_by_default = allow_by_default
        self.exceptions: dict[Device, frozenset[str]] = dict(exceptions or {})

    @classmethod
    def for_container(cls, rules: Iterable[dict[str, Any]]) -> DeviceRules:
        """`of`, with `ALWAYS_ALLOWED` after them. The last answer is kept: rules are checked, then applied."""
        given = [dict(rule) for rule in rules]
        if not _recent or _recent[0][0] != given:
            _recent[:] = [(given, cls.of([*given, *ALWAYS_ALLOWED]))]
        return _recent[0][1]

    @classmethod
    def of(cls, rules: Iterable[dict[str, Any]]) -> DeviceRules:
        """What `linux.resources.devices` amounts to, from a new control group on, which allows everything.

        Raises:
            InvalidSpec: a rule takes back part of what a rule with a wildcard gave (or the reverse). The kernel would
                ignore the later one without a word.
        """
        state = cls(allow_by_default=True)
        for index, rule in enumerate(rules):
            state._add(rule, f"linux.resources.devices[{index}]")
        return state

    def _add(self, rule: dict[str, Any], field: str) -> None:
        allow = rule["allow"]
        access = frozenset(rule.get("access") or "rwm") & frozenset(_ORDER)  # others mean nothing, as with runc
        kind = rule.get("type") or "a"
        if kind == "u":
            kind = "c"
        major, minor = _number(rule.get("major")), _number(rule.get("minor"))
        if kind == "a":
            # A rule for all types can only set the default: the kernel's "a" ignores numbers and accesses.
            if (major, minor) != (WILDCARD, WILDCARD) or access != frozenset(_ORDER):
                raise InvalidSpec(field, "a rule for all types must be for all devices and all of rwm")
            self.allow_by_default = allow
            self.exceptions.clear()
            return
        device = (kind, major, minor)
        if allow != self.allow_by_default:
            self.exceptions[device] = self.exceptions.get(device, frozenset()) | access
        else:
            self._take_back(device, access, field)

    def _take_back(self, device: Device, access: frozenset[str], field: str) -> None:
        for other in self.exceptions:
            if other != device and _covers(other, device) and self.exceptions[other] & access:
                raise InvalidSpec(
                    field, f"cannot make an exception to the wider rule {_line(other, access)!r} before it"
                )
        for other in [other for other in self.exceptions if _covers(device, other)]:
            rest = self.exceptions[other] - access
            if rest:
                self.exceptions[other] = rest
            else:
                del self.exceptions[other]

    @classmethod
    def parse(cls, text: str) -> DeviceRules:
        """What devices.list says: "a *:* rwm" when all is allowed, else the exceptions to a denial.

        A group that allows everything but some devices shows only the former; which ones cannot be read back.
        """
        state = cls(allow_by_default=False)
        for line in text.splitlines():
            kind, numbers, access = line.split()
            if kind == "a":
                return cls(allow_by_default=True)
            major, minor = (WILDCARD if part == "*" else int(part) for part in numbers.split(":"))
            state.exceptions[kind, major, minor] = frozenset(access)
        return state

    def changes(self, wanted: DeviceRules) -> list[tuple[str, str]]:
        """What to write to get from here to `wanted`: pairs of file name and line."""
        writes: list[tuple[str, str]] = []
        current = self.exceptions
        give, take = ("devices.deny", "devices.allow") if wanted.allow_by_default else ("devices.allow", "devices.deny")
        if self.allow_by_default != wanted.allow_by_default or wanted.allow_by_default:
            # For a list of denials always start over, since the present ones are not to be seen.
            if not (wanted.allow_by_default and self.allow_by_default and not wanted.exceptions):
                writes.append((take, "a"))
            current = {}
        for device, access in wanted.exceptions.items():
            if added := access - current.get(device, frozenset()):
                writes.append((give, _line(device, added)))
        for device, access in current.items():
            if removed := access - wanted.exceptions.get(device, frozenset()):
                writes.append((take, _line(device, removed)))
        return writes

    def ordered(self) -> Sequence[tuple[Device, frozenset[str]]]:
        """The exceptions, those for exact devices before those with wildcards."""
        return sorted(self.exceptions.items(), key=lambda item: (item[0].count(WILDCARD), item[0]))


_recent: list[tuple[list[dict[str, Any]], DeviceRules]] = []


def _number(value: int | None) -> int:
    return WILDCARD if value is None or value < 0 else value


def _covers(wide: Device, narrow: Device) -> bool:
    return wide[0] == narrow[0] and all(
        one in {WILDCARD, other} for one, other in zip(wide[1:], narrow[1:], strict=True)
    )


def _line(device: Device, access: frozenset[str]) -> str:
    kind, major, minor = device
    numbers = ":".join("*" if number == WILDCARD else str(number) for number in (major, minor))
    return f"{kind} {numbers} {''.join(letter for letter in _ORDER if letter in access)}"
