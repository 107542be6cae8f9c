"""Which preloads this agent knows, and what it takes of what members tell of them.

Any member may tell anything, so all of it is bounded: by signer, by teller and in total; a record
is verified once, and no more of them than a bucket allows. `now` is unix seconds. The book awaits
nothing and writes nothing: what changed is taken with `changes`, written in a worker thread, and
struck off with `written`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from p2pcache.config.preload import From, PreloadSettings
from p2pcache.content.preload import MAX_LIFE_S, MAX_SKEW_S, Cancel, Intent, parse, record_id
from p2pcache.errors import Unavailable
from p2pcache.net.sync.limits import Bucket
from p2pcache.store.preloads import PreloadRow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from p2pcache.content.peerid import PeerId
    from p2pcache.store.preloads import PreloadRows

Key = tuple[bytes, "PeerId"]


@dataclass(frozen=True, slots=True)
class BookOptions:
    """How much is remembered. A row is at most 19 KB, so all of them are at most 10 MB."""

    max_rows: int = 512  # ends included, which stay until the intent would have expired
    max_of_teller: int = 256  # one member, under however many names, fills half of it at most
    max_of_signer: int = 64
    max_open_of_signer: int = 16  # that were not cancelled: each may fill a disk
    records_burst: float = 512.0  # of one teller: all that an honest one can know
    records_per_s: float = 5.0  # verifying one costs 0.2 ms
    max_tellers: int = 1024  # whose buckets are remembered
    max_gone: int = 4096  # to be struck out of the file; what is left there expires, and is struck
    #                       out after the next start


@dataclass(frozen=True, slots=True)
class Changes:
    """What the file does not say yet: rows that are new, and keys of those that are gone."""

    rows: tuple[PreloadRow, ...]
    gone: tuple[Key, ...]


class Book:
    """See the module. For one thread at a time."""

    def __init__(
        self,
        rows: PreloadRows,
        settings: PreloadSettings,
        now: Callable[[], float],
        options: BookOptions | None = None,
    ) -> None:
        self._rows = rows
        self._settings = settings
        self._now = now
        self._options = options or BookOptions()
        self._known: dict[Key, PreloadRow] = {}
        self._signers: dict[bytes, PeerId] = {}  # of the intents that are known
        self._verified: dict[bytes, Intent | Cancel] = {}  # of late; told again by every member
        self._buckets: dict[PeerId, Bucket] = {}
        self._unsaved: set[Key] = set()  # of what is known
        self._gone: dict[Key, None] = {}  # in the order in which they went
        self.missed: set[PeerId] = set()  # who told more than could be verified at once

    def load(self, rows: Iterable[PreloadRow]) -> None:
        """Begin with what was kept."""
        for row in rows:
            key = (row.id, row.signer)
            if row.expires_at <= self._now():
                self._go(key)
            elif key not in self._known:  # what was heard meanwhile is newer
                self._take(row)

    # -- what is kept ----------------------------------------------------------------------------

    def read(self) -> list[PreloadRow]:
        """What the index has; for a worker thread. Raises LocalFault."""
        return self._rows.all()

    def changes(self) -> Changes | None:
        """What is to be written now; None: nothing."""
        if not self._unsaved and not self._gone:
            return None
        return Changes(tuple(self._known[key] for key in self._unsaved), tuple(self._gone))

    def write(self, changes: Changes) -> None:
        """Into the index; for a worker thread. Raises LocalFault."""
        if changes.rows:
            self._rows.put(changes.rows)
        if changes.gone:
            self._rows.drop(changes.gone)

    def written(self, changes: Changes) -> None:
        """These were; what changed again meanwhile is still to be."""
        for row in changes.rows:
            key = (row.id, row.signer)
            if self._known.get(key) is row:
                self._unsaved.discard(key)
        for key in changes.gone:
            self._gone.pop(key, None)

    # -- what is known ---------------------------------------------------------------------------

    def intents(self) -> list[PreloadRow]:
        """Those whose intent is known, cancelled ones too, the oldest first."""
        found = [row for row in self._known.values() if row.intent is not None]
        return sorted(found, key=_issued)

    def find(self, id_: bytes) -> PreloadRow | None:
        """The intent of this id."""
        signer = self._signers.get(id_)
        return None if signer is None else self._known[id_, signer]

    def records(self) -> list[bytes]:
        """All that is told to a newcomer; the ends of cancelled ones too."""
        out = []
        for row in self._known.values():
            out += [one.record for one in (row.intent, row.cancel) if one is not None]
        return out

    def takes_part(self, signer: PeerId, me: PeerId, admin: PeerId | None) -> bool:
        """Whether this agent's settings let this signer preload here."""
        match self._settings.who:
            case From.MEMBERS:
                return True
            case From.ADMIN:
                return signer == admin
            case From.NOBODY:
                return signer == me

    # -- what changes ----------------------------------------------------------------------------

    def hear(
        self,
        teller: PeerId,
        records: Sequence[bytes],
        welcome: Callable[[PeerId], bool],
    ) -> list[bytes]:
        """Take what is new and of use; gives that, to be passed on. `welcome`: of which signers.

        Raises Untrusted for a record that no honest member passes on: one that is malformed or
        forged; nothing is taken of what it came with. Who told more than is verified at once is
        in `missed` then, to be asked again.
        """
        new: dict[Key, PreloadRow] = {}
        told = []
        for record in records:
            made = self._verified.get(record_id(record))
            if made is None:
                if not self._allowed(teller):
                    self.missed.add(teller)
                    break
                made = self._remember(record, parse(record))
            if not welcome(made.signer):
                continue
            row = self._with(made, teller, new)
            if row is not None:
                new[row.id, row.signer] = row
                told.append(record)
        for row in new.values():
            self._keep(row)
        return told

    def issue(self, intent: Intent) -> None:
        """Keep one of our own. Raises Unavailable when there are too many."""
        row = self._with(intent, intent.signer, {})
        if row is None:
            raise Unavailable(
                "too many preloads are known already",
                hint=f"one agent may have {self._options.max_open_of_signer} under way; "
                "`p2pcache preload list` shows them, `p2pcache preload cancel` ends one",
            )
        self._keep(row)

    def cancel(self, cancel: Cancel) -> None:
        """End one of our own."""
        self._keep(replace(self._known[cancel.id, cancel.signer], cancel=cancel))

    def note(self, id_: bytes, *, origin_bytes: int, done: bool) -> None:
        """How far this agent is."""
        row = self.find(id_)
        if row is not None and (row.origin_bytes, row.done) != (origin_bytes, done):
            self._keep(replace(row, origin_bytes=origin_bytes, done=done))

    def drop(self, unwelcome: Callable[[PeerId], bool]) -> list[bytes]:
        """Forget what expired and who is not welcome (a ban); gives the ids."""
        now = self._now()
        gone = [
            key
            for key, row in self._known.items()
            if row.expires_at <= now or unwelcome(row.signer)
        ]
        for key in gone:
            del self._known[key]
            self._go(key)
            if self._signers.get(key[0]) == key[1]:
                del self._signers[key[0]]
        return [id_ for id_, _ in gone]

    def _keep(self, row: PreloadRow) -> None:
        self._unsaved.add((row.id, row.signer))
        self._gone.pop((row.id, row.signer), None)
        self._take(row)

    def _go(self, key: Key) -> None:
        self._unsaved.discard(key)
        self._gone[key] = None
        while len(self._gone) > self._options.max_gone:
            del self._gone[next(iter(self._gone))]

    def _take(self, row: PreloadRow) -> None:
        self._known[row.id, row.signer] = row
        if row.intent is not None:
            self._signers[row.id] = row.signer

    def _with(
        self, made: Intent | Cancel, teller: PeerId, new: dict[Key, PreloadRow]
    ) -> PreloadRow | None:
        """What a verified record makes of what is known; None: nothing new, or no room for it."""
        key = (made.id, made.signer)
        row = new.get(key, self._known.get(key))
        now = self._now()
        if made.expires_at <= now:
            return None
        if isinstance(made, Intent):
            if made.issued_at > now + MAX_SKEW_S:
                return None
            if row is not None:
                return None if row.intent is not None else _completed(row, made)
            fresh = PreloadRow(made.id, made.signer, teller, made.expires_at, made, None)
        else:
            if row is not None:
                return None if row.cancel is not None else replace(row, cancel=made)
            if made.expires_at > now + MAX_LIFE_S + MAX_SKEW_S:
                return None
            fresh = PreloadRow(made.id, made.signer, teller, made.expires_at, None, made)
        return fresh if self._has_room(fresh, new) else None

    def _has_room(self, row: PreloadRow, new: dict[Key, PreloadRow]) -> bool:
        options = self._options
        rows = {**self._known, **new}.values()
        of_signer = [one for one in rows if one.signer == row.signer]
        is_open = row.intent is not None and row.cancel is None
        open_count = sum(one.intent is not None and one.cancel is None for one in of_signer)
        of_teller = sum(one.teller == row.teller for one in rows)
        return (
            len(rows) < options.max_rows
            and len(of_signer) < options.max_of_signer
            and of_teller < options.max_of_teller
            and not (is_open and open_count >= options.max_open_of_signer)
        )

    def _allowed(self, teller: PeerId) -> bool:
        options, now = self._options, self._now()
        bucket = self._buckets.pop(teller, None)
        if bucket is None:
            bucket = Bucket(options.records_per_s, options.records_burst, now)
        self._buckets[teller] = bucket
        while len(self._buckets) > options.max_tellers:
            del self._buckets[next(iter(self._buckets))]
        return bucket.take(1, now)

    def _remember(self, record: bytes, made: Intent | Cancel) -> Intent | Cancel:
        self._verified[record_id(record)] = made
        while len(self._verified) > 2 * self._options.max_rows:
            del self._verified[next(iter(self._verified))]
        return made


def _completed(row: PreloadRow, intent: Intent) -> PreloadRow:
    """The end came first; its word on the expiry was no more than a guess at the intent's."""
    return replace(row, intent=intent, expires_at=intent.expires_at)


def _issued(row: PreloadRow) -> tuple[float, bytes]:
    return (math.inf if row.intent is None else row.intent.issued_at), row.id
