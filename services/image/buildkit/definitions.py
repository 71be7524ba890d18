"""References to results as clients pass them around: a graph with one node, which names the result.

A client that builds one target on another hands in what it got for the first as an input of the second; in between it
only takes the graph apart and puts it together again. Graphs that are anything else are not understood here.

Source: moby/buildkit, client/llb/definition.go (what a graph has to look like to be passed on).
"""

from __future__ import annotations

import hashlib

from google.protobuf.message import DecodeError

from services.image.buildkit.wire import ops_pb2
from shared.errors import InvalidArgument, Unsupported

SCHEME = "davit-result://"
RAW_GRAPH = (
    "this engine's builder takes Dockerfiles, not low-level build definitions: build with a builder of "
    "`docker buildx create --driver docker-container --use`"
)


def definition_of(result_id: str) -> ops_pb2.Definition:
    """A graph that stands for a result."""
    source = ops_pb2.Op(source=ops_pb2.SourceOp(identifier=f"{SCHEME}{result_id}")).SerializeToString(
        deterministic=True
    )
    last = ops_pb2.Op(inputs=[ops_pb2.Input(digest=_digest(source))]).SerializeToString(deterministic=True)
    definition = ops_pb2.Definition()
    getattr(definition, "def").extend([source, last])  # a word of Python's
    for node in (source, last):
        definition.metadata[_digest(node)].SetInParent()
    return definition


def result_of(definition: ops_pb2.Definition) -> str:
    """The result that a graph stands for.

    Raises:
        Unsupported: It is a graph of its own.
    """
    sources = []
    try:
        for data in getattr(definition, "def"):
            node = ops_pb2.Op.FromString(data)
            if node.HasField("source"):
                sources.append(node.source.identifier)
            elif len(node.inputs) != 1:
                raise Unsupported(RAW_GRAPH, field="Definition")
    except DecodeError as error:
        raise InvalidArgument("a build definition cannot be decoded", field="Definition") from error
    if len(sources) != 1 or not sources[0].startswith(SCHEME):
        raise Unsupported(RAW_GRAPH, field="Definition")
    return sources[0].removeprefix(SCHEME)


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
