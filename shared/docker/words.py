"""Words for true and false. Docker has three sets of them, each in its places.

Source: Go, strconv.ParseBool (options of networks, security and builds); Docker Engine API, query parameters.
"""

from __future__ import annotations

from shared.errors import InvalidArgument

TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})
# Of a query parameter: whatever is not one of these is true.
QUERY_FALSE = frozenset({"", "0", "no", "false", "none"})


def parse_bool(text: str) -> bool:
    """What Go's strconv.ParseBool reads. Raises InvalidArgument with its words."""
    if text in TRUE:
        return True
    if text in FALSE:
        return False
    raise InvalidArgument(f'strconv.ParseBool: parsing "{text}": invalid syntax')


def query_flag(text: str) -> bool:
    """A query parameter's value: true for anything but an empty one, 0, no, false and none."""
    return text.strip().lower() not in QUERY_FALSE
