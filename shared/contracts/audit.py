"""The audit log: what the audit service answers."""

from __future__ import annotations

from pydantic import BaseModel, Field

from shared.bus.client import Contract, Empty
from shared.bus.streams import StreamRef

# Says that records wait in a spool. Nobody answers.
SPOOLED = "davit.audit.spooled"


class ReadRecords(BaseModel):
    """Records from a number on.

    Attributes:
        wait_s: How long to wait for the first, if there is none yet.
    """

    first: int = Field(ge=0)
    limit: int = Field(default=1000, ge=1)
    limit_bytes: int = Field(default=1 << 20, ge=1)
    wait_s: float = Field(default=0, ge=0)


class Records(BaseModel):
    """Attributes: first: the number of the first line. lines: canonical JSON. size: how many the log has had."""

    first: int
    lines: list[str]
    size: int


class LogState(BaseModel):
    """The log as it is now.

    Attributes:
        first: The oldest record that is kept.
        size: How many there were.
        note: The newest checkpoint, signed; empty when there is none yet.
        key: The public key, as a verifier key (see `shared.transparency.notes`).
    """

    first: int
    size: int
    note: str
    key: str
    problem: str = ""


class ProveInclusion(BaseModel):
    """That a record is in the log of a size; 0 means the newest checkpoint's."""

    number: int
    size: int = 0


class ProveConsistency(BaseModel):
    """That a log of the second size begins with that of the first; 0 means the newest checkpoint's."""

    first: int
    second: int = 0


class Proof(BaseModel):
    """Hashes in hexadecimal, in the order of RFC 9162. leaf: of the record, for a proof of inclusion."""

    size: int
    root: str
    hashes: list[str]
    leaf: str = ""
    first_root: str = ""
    note: str = ""


class ReadCheckpoints(BaseModel):
    """Checkpoints of at least that size, the smallest first."""

    size: int = 0
    count: int = Field(default=100, ge=1, le=1000)


class Checkpoints(BaseModel):
    notes: list[str]
    sizes: list[int]


class ExportLog(BaseModel):
    """Records and checkpoints from a number on, as lines, zstd-compressed, on a stream.

    Attributes:
        end: The number after the last record's; 0: up to the newest checkpoint.
    """

    stream: StreamRef
    first: int = 0
    end: int = 0


class Exported(BaseModel):
    first: int
    end: int


class SinkState(BaseModel):
    """One delivery.

    Attributes:
        position: The number of the next record that it is to get; behind: how many wait.
        failures: In a row. next_at: when it is tried again, RFC 3339; empty: now.
        gone: It has said that it wants no more (410).
    """

    name: str
    type: str
    format: str
    position: int
    behind: int
    failures: int = 0
    next_at: str = ""
    problem: str = ""
    gone: bool = False


class Sinks(BaseModel):
    sinks: list[SinkState]


READ = Contract("davit.audit.record.read", ReadRecords, Records, deadline_s=60, idempotent=True)
STATE = Contract("davit.audit.log.state", Empty, LogState, idempotent=True)
INCLUSION = Contract("davit.audit.proof.inclusion", ProveInclusion, Proof, idempotent=True)
CONSISTENCY = Contract("davit.audit.proof.consistency", ProveConsistency, Proof, idempotent=True)
CHECKPOINTS = Contract("davit.audit.checkpoint.list", ReadCheckpoints, Checkpoints, idempotent=True)
EXPORT = Contract("davit.audit.log.export", ExportLog, Exported)
SINKS = Contract("davit.audit.sink.list", Empty, Sinks, idempotent=True)
