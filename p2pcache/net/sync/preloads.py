"""What is said of preloads on a sync stream, since minor version 2. Pure.

Records travel as the bytes that were signed (content/preload) and are judged by whoever keeps them.
States are an agent's own word about itself, told over its own link: no signature, no passing on.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any, TypeAlias

from p2pcache.content.preload import ID_BYTES, MAX_RECORD_BYTES
from p2pcache.content.signed import MAX_BLOB_BYTES
from p2pcache.net.sync.fields import Many, Raw, Real, Record, Text, Whole

MINOR = 2  # of the sync protocol, that has these messages
MAX_RECORDS = 32  # in one message; 32 x 9 KiB fit a frame three times
MAX_STATES = 64  # in one message
MAX_WATCHED = 64  # preloads that one peer asks about in one message
MAX_CODE_BYTES = 32
MAX_LABELS_BYTES = 512


class Stage(enum.Enum):
    """How far an agent is. The value is shown to the user."""

    IDLE = "idle"  # it is not one of those that are to fetch
    WAITING = "waiting"  # for its time, its turn, or somebody who has it
    PULLING = "pulling"
    COMPLETE = "complete"
    REFUSED = "refused"  # it may not read this, or its settings let no such agent preload
    FAILED = "failed"
    CANCELLED = "cancelled"


_STAGES = tuple(Stage)


@dataclass(frozen=True, slots=True)
class Records:
    """Intents and cancels, as they were signed."""

    records: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class State:
    """Where the sender is with a preload. `code`: why, one of errors.py's; empty: nothing to say.

    `done_bytes` of `total_bytes` are there and verified; 0 of 0 where the reader may not know.
    `origin_bytes`: what it took from origins for this, duplicates included.
    `labels`: the sender's own, as settings have them.
    """

    id: bytes
    stage: Stage
    done_bytes: int
    total_bytes: int
    origin_bytes: int
    bytes_per_s: float
    code: str
    labels: str


@dataclass(frozen=True, slots=True)
class States:
    """Of the sender; each replaces what it said of that preload before."""

    entries: tuple[State, ...]


@dataclass(frozen=True, slots=True)
class Watch:
    """Tell me how far you are with these, now and for a minute. None at all: tell me the records
    that you know.
    """

    ids: tuple[bytes, ...]


Message: TypeAlias = Records | States | Watch

_ID = Raw(ID_BYTES, ID_BYTES)
_BYTES = Whole(0, MAX_BLOB_BYTES)
_STATE = Record(
    lambda id_, stage, *rest: State(id_, _STAGES[stage], *rest),
    (
        _ID,
        Whole(0, len(_STAGES) - 1),
        _BYTES,
        _BYTES,
        _BYTES,
        Real(1e15),
        Text(MAX_CODE_BYTES),
        Text(MAX_LABELS_BYTES, cut=True),
    ),
    lambda s: (
        s.id, _STAGES.index(s.stage), s.done_bytes, s.total_bytes, s.origin_bytes,
        s.bytes_per_s, s.code, s.labels,
    ),
)  # fmt: skip

CODECS: dict[int, tuple[type[Message], Record[Any]]] = {
    32: (
        Records,
        Record(
            Records,
            (Many(Raw(1, MAX_RECORD_BYTES), MAX_RECORDS, 1),),
            lambda value: (value.records,),
        ),
    ),
    33: (
        States,
        Record(States, (Many(_STATE, MAX_STATES, 1),), lambda value: (value.entries,)),
    ),
    34: (Watch, Record(Watch, (Many(_ID, MAX_WATCHED),), lambda value: (value.ids,))),
}
