"""What each route does, to what: the words that records and policies use.

A route that is not here does not start the engine (`check`). Names of path parameters do not matter.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from dataclasses import dataclass

from shared.errors import Internal


class Effect(enum.Enum):
    """What a request is able to do: nothing, show what is inside of something, change things, or end them.

    What ends something is recorded out of space that is kept for it when the disk is full.
    """

    READS = "reads"
    DISCLOSES = "discloses"
    CHANGES = "changes"
    FREES = "frees"


@dataclass(frozen=True, slots=True)
class Action:
    """Attributes: named_by: the attribute of the query or the body that names the object, where no path does."""

    resource: str
    verb: str
    effect: Effect
    named_by: str = ""


UNKNOWN = Action("unknown", "unknown", Effect.READS)
_PARAMETER = re.compile(r"\{[^}]*\}")
READS, DISCLOSES, CHANGES, FREES = Effect.READS, Effect.DISCLOSES, Effect.CHANGES, Effect.FREES

_TABLE = """
    POST   /containers/create             container create     changes    name
    GET    /containers/json               container list       reads
    POST   /containers/prune              container prune      frees
    POST   /containers/{}/start           container start      changes
    GET    /containers/{}/json            container inspect    reads
    POST   /containers/{}/stop            container stop       frees
    POST   /containers/{}/restart         container restart    changes
    POST   /containers/{}/kill            container kill       frees
    POST   /containers/{}/pause           container pause      changes
    POST   /containers/{}/unpause         container unpause    changes
    POST   /containers/{}/rename          container rename     changes
    POST   /containers/{}/update          container update     changes
    POST   /containers/{}/resize          container resize     changes
    DELETE /containers/{}                 container remove     frees
    GET    /containers/{}/top             container top        reads
    GET    /containers/{}/changes         container changes    reads
    POST   /containers/{}/wait            container wait       reads
    POST   /containers/{}/attach          container attach     discloses
    GET    /containers/{}/attach/ws       container attach     discloses
    GET    /containers/{}/logs            container logs       discloses
    POST   /containers/{}/exec            exec      create     changes
    POST   /exec/{}/start                 exec      start      changes
    POST   /exec/{}/resize                exec      resize     changes
    GET    /exec/{}/json                  exec      inspect    reads
    HEAD   /containers/{}/archive         container archive-stat  reads
    GET    /containers/{}/archive         container archive-get   discloses
    PUT    /containers/{}/archive         container archive-put   changes
    GET    /containers/{}/export          container export     discloses
    GET    /containers/{}/stats           container stats      reads
    GET    /images/json                   image     list       reads
    GET    /images/search                 image     search     reads      term
    GET    /images/get                    image     save       discloses  names
    POST   /images/load                   image     load       changes
    POST   /images/create                 image     pull       changes    from_image
    POST   /images/prune                  image     prune      frees
    GET    /images/{}/json                image     inspect    reads
    GET    /images/{}/history             image     history    reads
    GET    /images/{}/attestations        image     inspect    reads
    GET    /images/{}/get                 image     save       discloses
    POST   /images/{}/push                image     push       changes
    POST   /images/{}/tag                 image     tag        changes
    DELETE /images/{}                     image     remove     frees
    POST   /commit                        image     commit     changes    container
    GET    /distribution/{}/json          image     distribution  reads
    POST   /build                         build     create     changes    tags
    POST   /build/prune                   build     prune      frees
    POST   /build/cancel                  build     cancel     changes
    GET    /volumes                       volume    list       reads
    POST   /volumes/create                volume    create     changes    name
    POST   /volumes/prune                 volume    prune      frees
    GET    /volumes/{}                    volume    inspect    reads
    DELETE /volumes/{}                    volume    remove     frees
    PUT    /volumes/{}                    volume    update     changes
    GET    /networks                      network   list       reads
    POST   /networks/create               network   create     changes    name
    POST   /networks/prune                network   prune      frees
    GET    /networks/                     network   list       reads
    GET    /networks/{}                   network   inspect    reads
    DELETE /networks/{}                   network   remove     frees
    POST   /networks/{}/connect           network   connect    changes
    POST   /networks/{}/disconnect        network   disconnect frees
    GET    /_ping                         system    ping       reads
    HEAD   /_ping                         system    ping       reads
    GET    /openapi.json                  system    describe   reads
    GET    /docs                          system    describe   reads
    GET    /docs/{}                       system    describe   reads
    GET    /version                       system    version    reads
    GET    /info                          system    info       reads
    GET    /system/df                     system    df         reads
    GET    /events                        system    events     reads
    GET    /swarm                         cluster   inspect    discloses
    POST   /swarm/init                    cluster   create     changes
    POST   /swarm/join                    cluster   join       changes
    POST   /swarm/leave                   cluster   leave      changes
    POST   /swarm/update                  cluster   update     changes
    GET    /swarm/unlockkey               cluster   unlockkey  discloses
    POST   /swarm/unlock                  cluster   unlock     changes
    GET    /nodes                         node      list       reads
    GET    /nodes/{}                      node      inspect    reads
    POST   /nodes/{}/update               node      update     changes
    DELETE /nodes/{}                      node      remove     changes
    POST   /session                       build     session    changes
    POST   /grpc                          build     control    changes
    POST   /auth                          registry  login      changes
    GET    /audit                         audit     read       discloses
    GET    /audit/state                   audit     inspect    reads
    GET    /audit/export                  audit     export     discloses
    GET    /audit/checkpoints             audit     inspect    reads
    GET    /audit/proof/inclusion         audit     prove      reads
    GET    /audit/proof/consistency       audit     prove      reads
    GET    /audit/sinks                   audit     inspect    reads
"""
# Docker's resources that this engine does not have: each of their requests is refused.
_ABSENT = frozenset({"services", "tasks", "secrets", "configs", "plugins"})


def _parsed(table: str) -> dict[tuple[str, str], Action]:
    actions = {}
    for line in table.split("\n"):
        words = line.split()
        if words:
            method, path, resource, verb, effect, *named_by = words
            actions[method, path] = Action(resource, verb, Effect(effect), *named_by)
    return actions


ACTIONS = _parsed(_TABLE)


def action_of(method: str, template: str) -> Action | None:
    """What a route does; None for one that was not declared."""
    path = _PARAMETER.sub("{}", template)
    found = ACTIONS.get((method, path))
    if found is None and (first := path.split("/")[1]) in _ABSENT:
        return Action(first.removesuffix("s"), method.lower(), Effect.READS if method == "GET" else Effect.CHANGES)
    return found


def check(routes: Iterable[tuple[str, str]]) -> None:
    """Raises Internal, naming them, when there are routes (method, path) of which nobody said what they do."""
    missing = [f"{method} {path}" for method, path in routes if action_of(method, path) is None]
    if missing:
        raise Internal(f"what these routes do is not declared: {', '.join(missing)}")
