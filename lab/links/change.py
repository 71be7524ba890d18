"""What commands and the timeline do to a lab's wires. The record is changed; `Lab.wire_up` makes it so."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ValidationError

from lab.lab import Lab
from lab.links.wires import ALL, cut_key, directions
from shared.errors import InvalidArgument


def cut(lab: Lab, one: str, other: str) -> None:
    """Nothing goes between the two any more: two nodes, or a node and a segment. Raises NotFound."""
    directions(lab.nets, one, other)
    lab.record.changes.cuts.add(cut_key(one, other))


def isolate(lab: Lab, node: str) -> None:
    """Nothing goes between a node and any other."""
    lab.record.changes.cuts.add(cut_key(lab.node(node), ALL))


def heal(lab: Lab, one: str | None = None, other: str | None = None) -> None:
    """Undo cuts: all, those of one node or segment, the one between two, or with `ALL` the isolation of a node."""
    cuts = lab.record.changes.cuts
    if one is None:
        cuts.clear()
    elif other is None:
        lab.record.changes.cuts = {key for key in cuts if one not in key.split("|")}
    elif other == ALL:
        cuts.discard(cut_key(lab.node(one), ALL))
    else:
        directions(lab.nets, one, other)
        cuts.discard(cut_key(one, other))


def link(lab: Lab, one: str, other: str, values: Mapping[str, object], *, both: bool) -> None:
    """Change parameters of a wire; what is not mentioned stays.

    Args:
        values: As the file spells them; none at all resets the wire to nothing.
        both: Also from `other` to `one`.

    Raises:
        NotFound: There is no such wire.
        InvalidArgument: Names the parameter.
    """
    found = directions(lab.nets, one, other)
    wires = lab.wires
    for key in found if both else found[: len(found) // 2]:
        try:
            changed = wires.of(*key).changed(**values) if values else wires.of(*key).__class__()
        except ValidationError as error:
            first = error.errors()[0]
            raise InvalidArgument(f"--{first['loc'][0]}: {str(first['msg']).removeprefix('Value error, ')}") from error
        lab.record.changes.parameters["|".join(key)] = changed
