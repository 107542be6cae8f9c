"""What we want of peers: pure; time is an argument, in seconds.

A want is asked of one peer at a time, the best: one that said it has the block, else one that has
others of the same session; each owes us at most `window` blocks. While no such peer is known,
everybody is asked whether it has it; a single candidate is asked for the block at once. A peer that
refuses is left out. One that gave nothing for `patience_s` is passed over: it is told that we do
not want it any more, and the next is asked, so that a block comes twice only when it crosses that
word; the only one that may have it is asked again. When a want ends, everybody who heard of it is
told: a peer remembers wants, and would send the block whenever it gets it.

Blocks that a peer was never asked for are not taken; after some it is to be blamed (`is_to_blame`).
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from p2pcache.net.bitswap.wire import Entry, Kind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from p2pcache.content.peerid import PeerId

MAX_PROBED = 64  # peers that are asked whether they have one block
MAX_RECENT = 8192  # blocks once asked of a peer: they may cross our cancel
MAX_UNASKED = 64  # blocks that a peer may send without being asked: an honest one sends none
MAX_ENTRIES = 2048  # of one message
FIRST = (1 << 31) - 1  # the highest priority of the wire
LOOKED_AT = 16  # waiting wants that are looked at when one block came; a tick looks at all


@dataclass(frozen=True, slots=True)
class WantOptions:
    """Defaults fit blocks of 1 MiB."""

    window: int = 64  # blocks that one peer owes us: 64 MiB keep a fast one busy
    patience_s: float = 5.0  # a loaded Kubo answers within one


class Came(Enum):
    """What a block that arrived is."""

    WANTED = "wanted"
    AGAIN = "again"  # it was asked for, and is not wanted any more
    UNASKED = "unasked"


@dataclass(slots=True)
class _Peer:
    told: dict[bytes, None] = field(default_factory=dict)  # wants that it knows of
    owed: dict[bytes, float] = field(default_factory=dict)  # of these, blocks asked for: since when
    recent: dict[bytes, tuple[int, ...]] = field(default_factory=dict)  # and their sessions
    out: dict[bytes, Entry] = field(default_factory=dict)  # to be sent
    came_at: float = -math.inf  # the last block that it was asked for
    slow: bool = False
    unasked: int = 0


@dataclass(slots=True)
class _Want:
    sessions: Counter[int]
    priority: int  # who came first is served first
    haves: set[PeerId] = field(default_factory=set)
    refused: set[PeerId] = field(default_factory=set)
    passed: set[PeerId] = field(default_factory=set)
    asked: PeerId | None = None
    asked_all_at: float | None = None  # nobody else was left to be asked


class Wants:
    """Everything that we want now, of whom, and what is to be sent for it."""

    def __init__(self, options: WantOptions | None = None) -> None:
        self._options = options or WantOptions()
        self._peers: dict[PeerId, _Peer] = {}
        self._wants: dict[bytes, _Want] = {}
        self._idle: dict[bytes, None] = {}  # wants that nobody is asked for, oldest first
        self._holders: dict[int, Counter[PeerId]] = {}  # by session: blocks given less refused
        self._hopeless: dict[bytes, None] = {}
        self._numbers = itertools.count()
        self.again_count = 0
        self.unasked_count = 0

    # -- what happens

    def want(self, cid: bytes, session: int, now: float) -> None:
        """Somebody wants a block, until as many `unwant`, or the block."""
        known = self._wants.get(cid)
        if known is not None:
            known.sessions[session] += 1
            return
        self._wants[cid] = _Want(Counter([session]), FIRST - next(self._numbers) % FIRST)
        self._idle[cid] = None
        self._advance(cid, now)

    def unwant(self, cid: bytes, session: int) -> None:
        """One that wanted it does so no longer."""
        want = self._wants.get(cid)
        if want is not None:
            want.sessions[session] -= 1
            want.sessions += Counter()  # without those that are zero
            if not want.sessions:
                self._end(cid)

    def end_session(self, session: int) -> None:
        """Nothing more will be wanted in it."""
        self._holders.pop(session, None)

    def up(self, peer: PeerId, now: float) -> None:
        """A peer can be asked from now on."""
        if peer not in self._peers:
            self._peers[peer] = _Peer()
            self._advance_idle(now)

    def down(self, peer: PeerId, now: float) -> None:
        """It left, or does not speak bitswap."""
        gone = self._peers.pop(peer, None)
        if gone is None:
            return
        for holders in self._holders.values():
            holders.pop(peer, None)
        for cid in gone.told:
            want = self._wants[cid]
            for those in (want.haves, want.refused, want.passed):
                those.discard(peer)
            self._unask(cid, want, peer)
        self._advance_idle(now)

    def presence(
        self, peer: PeerId, haves: Iterable[bytes], dont_haves: Iterable[bytes], now: float
    ) -> None:
        """A peer said what it has, and what not."""
        known = self._peers.get(peer)
        if known is None:
            return
        for cid in dont_haves:
            if cid in known.told:
                want = self._wants[cid]
                want.haves.discard(peer)
                want.refused.add(peer)
                self._score(want.sessions, peer, -1)
                known.owed.pop(cid, None)
                self._unask(cid, want, peer)
                self._advance(cid, now)
        for cid in haves:
            if cid in known.told:
                want = self._wants[cid]
                want.refused.discard(peer)
                want.haves.add(peer)
                self._score(want.sessions, peer, 0)
                self._advance(cid, now)
            else:
                self._too_late(known, peer, cid)
        self._advance_idle(now, LOOKED_AT)

    def block(self, peer: PeerId, cid: bytes, now: float) -> Came:
        """A block came whose bytes have this CID."""
        known = self._peers.get(peer)
        if known is None or not (cid in known.told or cid in known.recent):
            self.unasked_count += 1
            if known is not None:
                known.unasked += 1
            return Came.UNASKED
        known.came_at, known.slow = now, False
        want = self._wants.get(cid)
        if want is None:
            self.again_count += 1
            self._too_late(known, peer, cid)
            return Came.AGAIN
        self._score(want.sessions, peer, 1)
        if known.told.pop(cid, 0) is None:  # it forgot our want with the block that it sent
            known.owed.pop(cid, None)
            known.out.pop(cid, None)
        _remember(known, cid, want)
        self._end(cid)
        self._advance_idle(now, LOOKED_AT)
        return Came.WANTED

    def tick(self, now: float) -> None:
        """Pass over those that were silent for too long; to be called now and then."""
        for peer, known in self._peers.items():
            silent_since = now - self._options.patience_s
            if known.came_at > silent_since:
                continue
            for cid in [cid for cid, at in known.owed.items() if at <= silent_since]:
                known.slow = True
                want = self._wants[cid]
                if all(other in want.refused for other in self._peers if other != peer):
                    known.owed[cid] = now  # nobody else: perhaps it did not hear us
                    known.out[cid] = self._entry(cid, Kind.BLOCK)
                    self._hopeless[cid] = None
                    continue
                want.passed.add(peer)
                self._retract(known, cid, want)
                self._unask(cid, want, peer)
        self._advance_idle(now)

    # -- what follows

    def has_more(self, peer: PeerId) -> bool:
        """Whether there is something to send."""
        known = self._peers.get(peer)
        return known is not None and bool(known.out)

    def take(self, peer: PeerId) -> list[Entry]:
        """The next entries to be sent to a peer."""
        known = self._peers.get(peer)
        if known is None:
            return []
        taken = list(itertools.islice(known.out.values(), MAX_ENTRIES))
        for entry in taken:
            del known.out[entry.cid]
        return taken

    def restart(self, peer: PeerId) -> None:
        """What was sent to it may be lost: all that it is to know is sent again."""
        known = self._peers.get(peer)
        if known is not None:
            for cid in known.told:
                kind = Kind.BLOCK if cid in known.owed else Kind.HAVE
                known.out[cid] = self._entry(cid, kind)

    def talks(self) -> list[PeerId]:
        """To whom there is something to send."""
        return [peer for peer, known in self._peers.items() if known.out]

    def take_hopeless(self) -> list[bytes]:
        """Wants for which nobody was left to be asked, since the last call."""
        taken = [cid for cid in self._hopeless if cid in self._wants]
        self._hopeless.clear()
        return taken

    def is_refused(self, cid: bytes) -> bool:
        """Whether all that can be asked said that they do not have it."""
        want = self._wants.get(cid)
        return want is not None and all(peer in want.refused for peer in self._peers)

    def is_to_blame(self, peer: PeerId) -> bool:
        """Whether it sent too much that it was not asked for."""
        known = self._peers.get(peer)
        return known is not None and known.unasked > MAX_UNASKED

    def count(self) -> int:
        """Wants of ours."""
        return len(self._wants)

    # -- inside

    def _advance_idle(self, now: float, at_most: int | None = None) -> None:
        for cid in list(itertools.islice(self._idle, at_most)):
            self._advance(cid, now)

    def _advance(self, cid: bytes, now: float) -> None:
        """Ask somebody for a want, unless somebody is asked."""
        want = self._wants[cid]
        if want.asked is not None:
            return
        able = self._able(want)
        if not able and len(self._peers) == 1:
            able = [peer for peer in self._peers if peer not in want.refused | want.passed]
        if able:
            best = min(able, key=lambda peer: self._rank(want, peer))
            if len(self._peers[best].owed) < self._options.window:
                self._ask(cid, want, best, now)
            return
        probed = False
        for peer, known in itertools.islice(self._peers.items(), MAX_PROBED):
            if cid not in known.told and peer not in want.passed:
                known.told[cid] = None
                known.out[cid] = self._entry(cid, Kind.HAVE)
                probed = True
        if probed or want.asked_all_at is None:
            want.asked_all_at = now
        waits = any(
            peer not in want.refused and peer not in want.passed and cid in known.told
            for peer, known in self._peers.items()
        )
        if not waits or now - want.asked_all_at >= self._options.patience_s:
            self._hopeless[cid] = None
            want.asked_all_at = now
            want.passed.clear()  # they may have recovered; at the next tick

    def _able(self, want: _Want) -> list[PeerId]:
        """Who may well have it."""
        out = want.refused | want.passed
        if found := [peer for peer in want.haves if peer not in out]:
            return found
        return [
            peer
            for session in want.sessions
            for peer in self._holders.get(session, ())
            if peer not in out
        ]

    def _rank(self, want: _Want, peer: PeerId) -> tuple[bool, bool, int, PeerId]:
        score = sum(self._holders.get(session, Counter())[peer] for session in want.sessions)
        known = self._peers[peer]
        return known.slow, score < 0, len(known.owed), peer

    def _too_late(self, known: _Peer, peer: PeerId, cid: bytes) -> None:
        """Another was faster; still it has what belongs to these sessions."""
        going_on = [one for one in known.recent.get(cid, ()) if one in self._holders]
        self._score(going_on, peer, 0)

    def _score(self, sessions: Iterable[int], peer: PeerId, change: int) -> None:
        for session in sessions:
            holders = self._holders.setdefault(session, Counter())
            if change >= 0 or peer in holders:
                holders[peer] += change

    def _ask(self, cid: bytes, want: _Want, peer: PeerId, now: float) -> None:
        known = self._peers[peer]
        want.asked = peer
        self._idle.pop(cid, None)
        known.told[cid] = None
        known.owed[cid] = now
        known.out[cid] = self._entry(cid, Kind.BLOCK)

    def _unask(self, cid: bytes, want: _Want, peer: PeerId) -> None:
        if want.asked == peer:
            want.asked = None
            self._idle[cid] = None

    def _retract(self, known: _Peer, cid: bytes, want: _Want) -> None:
        """A peer is to forget a want."""
        known.told.pop(cid, None)
        known.owed.pop(cid, None)
        known.out.pop(cid, None)
        known.out[cid] = Entry(cid, cancel=True)
        _remember(known, cid, want)

    def _entry(self, cid: bytes, kind: Kind) -> Entry:
        return Entry(cid, self._wants[cid].priority, kind, dont_have=True)

    def _end(self, cid: bytes) -> None:
        want = self._wants.pop(cid)
        self._idle.pop(cid, None)
        self._hopeless.pop(cid, None)
        for known in self._peers.values():
            if cid in known.told:
                self._retract(known, cid, want)


def _remember(known: _Peer, cid: bytes, want: _Want) -> None:
    known.recent.pop(cid, None)
    known.recent[cid] = tuple(want.sessions)
    if len(known.recent) > MAX_RECENT:
        del known.recent[next(iter(known.recent))]
