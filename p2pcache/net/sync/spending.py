"""What is said of origins' budgets on a sync stream, since minor version 4. Pure.

Each member speaks of itself alone, over its own authenticated link: nothing is signed, nothing is
passed on. Only origins with a budget in the speaker's settings are told of, by a hash of the host.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from p2pcache.errors import Untrusted
from p2pcache.net.sync.fields import Many, Raw, Record, Whole
from p2pcache.units import MAX_BYTES

MINOR = 4  # of the sync protocol, that has this message
ORIGIN_BYTES = 16  # as transfer.budgets has it
MAX_ENTRIES = 64  # in one message: the origins that settings may give a budget
MAX_MONTH = 12 * 10_000
MAX_REQUESTS = 1 << 48
MAX_RUNNING = 4096


@dataclass(frozen=True, slots=True)
class Entry:
    """The sender's own figures of one origin and month (12 x year + month), whether it asks there
    now, and how many requests of its run there.
    """

    origin: bytes
    month: int
    bytes_total: int
    requests_total: int
    asks: bool
    running: int


@dataclass(frozen=True, slots=True)
class Spends:
    """Each entry replaces what the sender said of that origin before, if it is not less. Of each
    origin there is one.
    """

    entries: tuple[Entry, ...]


Message: TypeAlias = Spends

_ENTRY = Record(
    lambda origin, month, count, requests, asks, running: Entry(
        origin, month, count, requests, bool(asks), running
    ),
    (
        Raw(ORIGIN_BYTES, ORIGIN_BYTES),
        Whole(0, MAX_MONTH),
        Whole(0, MAX_BYTES),
        Whole(0, MAX_REQUESTS),
        Whole(0, 1),
        Whole(0, MAX_RUNNING),
    ),
    lambda e: (e.origin, e.month, e.bytes_total, e.requests_total, int(e.asks), e.running),
)


def _spends(entries: tuple[Entry, ...]) -> Spends:
    if len({entry.origin for entry in entries}) < len(entries):
        raise Untrusted("a message that tells of one origin twice")
    return Spends(entries)


CODECS: dict[int, tuple[type[Message], Record[Any]]] = {
    36: (
        Spends,
        Record(_spends, (Many(_ENTRY, MAX_ENTRIES, 1),), lambda value: (value.entries,)),
    ),
}
