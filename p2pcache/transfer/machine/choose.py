"""Who is asked for what next.

The rules, and where they come from:

* peers before origins, by piece and not by blob (DESIGN 6): an origin is asked for what no healthy
  peer has. It is spared, never waited for: what only peers in trouble have is asked of it at once;
* among peers the shorter queue of two that are drawn, and a random run among what it has: rarest
  first lost (facts/swarm.md 5);
* what nobody has is brought by its owner (`shares`), the others wait for him;
* who is near is asked before who is far, and another zone for nothing that ours has; into a zone
  with several members each unit is carried by one of them (`zones`);
* runs of whole pieces where the holder has them, shorter near the end (`policy.run_limit`); of a
  peer no more than what comes in `peer_run_s`, so that nobody queues behind a long one; of a fast
  origin that is asked by us alone, longer ones;
* a peer that was asked and brought nothing yet does not spare the origin any more;
* peers so slow that the origin may be faster: one piece measures it, once;
* what is compared after a wrong digest is asked of somebody who did not send it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from p2pcache.lanes.orders import BLOCK_BYTES
from p2pcache.transfer.machine import bits
from p2pcache.transfer.machine.roster import rank_of
from p2pcache.transfer.policy import TransferOptions, lone_run_bytes, run_limit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from p2pcache.transfer.machine.blobs import BlobState
    from p2pcache.transfer.machine.roster import Roster
    from p2pcache.transfer.machine.shares import Shares
    from p2pcache.transfer.machine.sources import SourceState

TYPICAL_BLOCK_S = 0.01  # before anything is measured: only compared with itself
FEW = 4  # so many are looked at one by one; of more, some are drawn first
DRAWS = 6  # before all are looked at


@dataclass(frozen=True, slots=True)
class Choice:
    """Ask `source` for blocks `[start, end)`."""

    source: SourceState
    start: int
    end: int
    compare: bool
    whole: bool = False


class Chooser:
    """The rules, on the sources of one moment."""

    def __init__(
        self,
        roster: Roster,
        *,
        piece_bytes: int,
        streams: int,
        options: TransferOptions,
        chance: Callable[[], float],
        now: float,
        intake: float = 0.0,
        standing: bool = False,
        shares: Shares | None = None,
    ) -> None:
        self._piece_blocks = piece_bytes // BLOCK_BYTES
        ahead = int(intake * options.peer_run_s / max(1, streams))
        self._peer_blocks = max(piece_bytes, ahead - ahead % piece_bytes) // BLOCK_BYTES
        self._streams = streams
        self._options = options
        self._chance = chance
        self._now = now
        self._standing = standing  # nothing comes of anybody: what stalled is tried of an origin
        self.shares = shares
        self._roster = roster
        self.median_s = roster.median_s
        self._origins = roster.origins
        self._healthy = roster.healthy
        self._slow = roster.slow
        self._typical_s = self.median_s or TYPICAL_BLOCK_S
        self._there: dict[int, int] = {}
        self._unrisked: dict[int, int] = {}

    def of_large(self, blob: BlobState, *, peers: bool = True) -> Choice | None:
        """The next run of a blob, or None when nobody can bring any now.

        `peers`: whether they may be asked. What they have, an origin is not asked for all the same.
        """
        target = blob.missing
        compare = bool(target & blob.recheck)
        if compare:
            target &= blob.recheck
        delayed = target & blob.delayed
        if self._standing and delayed:  # the one request that tells whether our own link is slow
            choice = self._from_origin(blob, delayed, compare)
            if choice is not None:
                return choice
        shared = self.shares is not None and self.shares.applies(blob)
        own = self._from_origin(blob, target, compare) if shared else None
        return (
            own
            or (self._from_healthy(blob, target, compare) if peers else None)
            or (None if shared else self._from_origin(blob, target, compare))
            or (self._from_peers(blob, target, compare, [self._slow]) if peers else None)
        )

    def of_small(self, blob: BlobState) -> SourceState | None:
        """Who is asked for a small blob now."""
        peers = self._having(blob)
        if peers:
            near = [s for s in peers if not s.is_far]
            if not near and self.shares is not None and not self.shares.is_mine(blob, across=True):
                return None
            return self._shorter_queue([s for s in near or peers if s.has_room(self._now)])
        origins = [s for s in self._origins if s.held(blob) and s.has_room(self._now)]
        if origins and (self.shares is None or self.shares.is_mine(blob)):
            return self._best_origin(origins)
        slow = [s for s in self._slow if s.held(blob) and s.has_room(self._now)]
        return self._shorter_queue(slow)

    def is_spared(self, source: SourceState, blob: BlobState) -> bool:
        """Whether an origin is not asked for a small blob: a healthy peer has it, or it is another
        member's to bring.
        """
        if source.is_far:
            if any(not s.is_far for s in self._having(blob)):
                return True
            return self.shares is not None and not self.shares.is_mine(blob, across=True)
        if source.is_peer:
            return False
        if self._having(blob):
            return True
        return self.shares is not None and not self.shares.is_mine(blob)

    def _having(self, blob: BlobState) -> list[SourceState]:
        """Healthy peers that have a small blob; see `there` for those whose queue is full."""
        shared = self.shares is not None and self.shares.had_company(blob)
        return [s for s in self._healthy if s.held(blob) and (shared or self._answers(s))]

    def _answers(self, peer: SourceState) -> bool:
        """Whether an origin is spared for what a peer has: not where its queue is full, and not
        where it was asked and nothing came yet.
        """
        return self._now >= peer.busy_until and not peer.is_silent(self._now, self._options)

    def there(self, blob: BlobState) -> int:
        """Blocks that a healthy peer has and has not failed to deliver.

        One whose queue is full is waited for only where all bring parts: elsewhere an origin is
        spared, not waited for.
        """
        known = self._there.get(blob.spec.index)
        if known is None:
            known = self._there[blob.spec.index] = self._spared(blob)
        return known

    def _spared(self, blob: BlobState) -> int:
        shared = self.shares is not None and self.shares.had_company(blob)
        if shared and not self._standing and not self._roster.has_risky:
            return self._roster.reach(blob)
        spared = 0
        for peer in self._healthy:
            if shared or self._answers(peer):
                risky = peer.failures or self._standing
                spared |= peer.held(blob) & (~blob.delayed if risky else blob.full)
        return spared

    def second(self, blob: BlobState, left: int, first: SourceState) -> Choice | None:
        """Somebody else for blocks that are late; peers first."""
        shared = self.shares is not None and self.shares.had_company(blob)
        zoned = shared and self.shares is not None and self.shares.is_zoned
        for group in (self._healthy, [] if shared else self._origins):
            able = [
                s
                for s in group
                if s is not first
                and not (zoned and s.is_far)
                and s.ranged
                and s.has_room(self._now)
                and s.held(blob) & left
            ]
            best = self._shorter_queue(able)
            if best is not None:
                start = bits.first(best.held(blob) & left)
                return Choice(best, start, bits.run_end(best.held(blob) & left, start), False)
        return None

    def can_relieve(self, blob: BlobState, left: int, first: SourceState) -> bool:
        """Whether anybody else in good standing has any of these blocks."""
        return any(
            s is not first and s.held(blob) & left and self._now >= s.asked_again_at()
            for s in (*self._healthy, *self._origins)
        )

    # -- peers -----------------------------------------------------------------------------------

    def _from_healthy(self, blob: BlobState, target: int, compare: bool) -> Choice | None:
        if not target & self._roster.reach(blob):
            return None
        return self._from_peers(blob, target, compare, self._roster.groups)

    def _from_peers(
        self, blob: BlobState, target: int, compare: bool, groups: list[list[SourceState]]
    ) -> Choice | None:
        for group in groups:
            if group[:1] and group[0].is_far:
                target = self._from_far(blob, target)
            two = list(islice(self._able(blob, target, group), 2))
            if two:
                source, wanted = min(two, key=lambda one: one[0].wait_s(self._typical_s, self._now))
                start, end = self._random_run(blob, wanted)
                return Choice(source, start, min(end, start + self._peer_blocks), compare)
        return None

    def _from_far(self, blob: BlobState, target: int) -> int:
        """What may be asked of another zone: what nobody in ours has; of that, our share."""
        near = self.near(blob)
        target &= ~near
        shares = self.shares
        if not target or shares is None or not (shares.is_zoned and shares.applies(blob)):
            return target
        asked = sum(s.in_flight for s in self._healthy if s.is_far)
        if asked >= shares.streams:
            return 0
        far = target & self._roster.reach(blob)
        run = shares.run(blob, far, blob.done | near, across=True)
        return 0 if run is None else bits.span(*run)

    def near(self, blob: BlobState) -> int:
        """Blocks that healthy peers of our zone have and do not fail to deliver."""
        near = self._roster.near(blob)
        return near & ~blob.delayed if self._roster.has_risky or self._standing else near

    def _able(
        self, blob: BlobState, target: int, group: list[SourceState]
    ) -> Iterator[tuple[SourceState, int]]:
        """Those that can bring some of it now, and what, drawn one by one."""
        drawn: set[str] = set()
        count = len(group)
        if count > FEW:
            for _ in range(DRAWS):
                peer = group[self._draw(count)]
                if peer.name not in drawn:
                    drawn.add(peer.name)
                    if wanted := self._wanted_of(peer, blob, target):
                        yield peer, wanted
        rest = [
            (peer, wanted)
            for peer in group
            if peer.name not in drawn and (wanted := self._wanted_of(peer, blob, target))
        ]
        while rest:
            yield rest.pop(self._draw(len(rest)))

    def _wanted_of(self, peer: SourceState, blob: BlobState, target: int) -> int:
        if not peer.has_room(self._now) or (peer.block_s is None and not self._may_hope(peer)):
            return 0
        wanted = peer.held(blob) & target
        if wanted & blob.delayed and (peer.failures or self._standing):
            wanted &= ~self._not_risked(blob)
        return wanted

    def _may_hope(self, peer: SourceState) -> bool:
        """Whether one more request may go to who never brought a block: one stream is kept for the
        origin, that spares it (`_answers`). Where all bring parts everybody is new.
        """
        if self.shares is not None and self.shares.is_shared:
            return True
        if not any(self._now >= origin.asked_again_at() for origin in self._origins):
            return True
        if peer.is_silent(self._now, self._options):
            return False
        new = [s for s in self._healthy if s.block_s is None]
        hoped = [s for s in new if not s.is_silent(self._now, self._options)]
        return sum(s.in_flight for s in hoped) < max(1, self._streams - 1)

    def _not_risked(self, blob: BlobState) -> int:
        """What stalled once and somebody safer can be asked for: an origin, or while others move a
        peer that never failed. Without any, a risk is better than to wait for ever.
        """
        known = self._unrisked.get(blob.spec.index)
        if known is None:
            safer = 0
            for origin in self._origins:
                if self._now >= origin.asked_again_at():
                    safer |= origin.held(blob)
            if not self._standing:
                for peer in self._healthy:
                    safer |= 0 if peer.failures else peer.held(blob)
            known = self._unrisked[blob.spec.index] = blob.delayed & safer
        return known

    def _shorter_queue(self, able: list[SourceState]) -> SourceState | None:
        """Of two that are drawn; kinds in their order, who never failed before who did."""
        if not able:
            return None
        best = min(map(rank_of, able))
        able = [s for s in able if rank_of(s) == best]
        one = able.pop(self._draw(len(able)))
        if not able:
            return one
        other = able[self._draw(len(able))]
        return min(one, other, key=lambda s: s.wait_s(self._typical_s, self._now))

    def _draw(self, count: int) -> int:
        return min(int(self._chance() * count), count - 1)

    def _random_run(self, blob: BlobState, wanted: int) -> tuple[int, int]:
        at = bits.first(wanted, self._draw(blob.count))
        if at < 0:
            at = bits.first(wanted)
        piece = at - at % self._piece_blocks
        while at > piece and wanted >> (at - 1) & 1:
            at -= 1
        return at, self._end(blob, wanted, at)

    def _end(self, blob: BlobState, wanted: int, start: int, most_bytes: int | None = None) -> int:
        """Where a run ends: whole pieces, unless what is wanted ends before."""
        left = blob.missing.bit_count() * BLOCK_BYTES
        piece = self._piece_blocks
        most_bytes = most_bytes or self._options.run_bytes
        limit = run_limit(left, piece * BLOCK_BYTES, self._streams, most_bytes) // BLOCK_BYTES
        end = min(bits.run_end(wanted, start), start + limit)
        cut = end - end % piece
        return cut if cut > start and end < blob.count else end

    # -- origins ---------------------------------------------------------------------------------

    def _from_origin(self, blob: BlobState, target: int, compare: bool) -> Choice | None:
        able = [s for s in self._origins if s.has_room(self._now) and s.held(blob) & target]
        if not able:
            return None
        shares = self.shares if self.shares is not None and self.shares.applies(blob) else None
        trial = self._is_trial_due()
        ranged = not blob.spec.whole and all(s.ranged for s in able)
        if shares is not None and ranged and not trial and self._asked() >= shares.streams:
            return None
        spared = self.there(blob)
        for source in sorted(able, key=self._origin_key):
            wanted = source.held(blob) & target & ~spared
            if not wanted and trial:
                wanted = bits.span(*self._random_run(blob, source.held(blob) & target))
            if not wanted:
                continue
            if not source.ranged or blob.spec.whole:
                if blob.claimed:
                    return None
                # a stream that broke may have been of another version: compare what it left
                again = bool(blob.recheck) or (blob.spec.whole and bool(blob.done))
                return Choice(source, 0, blob.count, again, whole=True)
            if shares is not None and not trial:
                if self._asked() >= shares.streams:
                    return None
                run = shares.run(blob, wanted, blob.done | spared)
                if run is None:
                    return None
                return Choice(source, *run, compare)
            # Others fetch it too: in the same order, all would ask the origin for the same bytes.
            start = self._random_run(blob, wanted)[0] if spared else bits.first(wanted)
            end = self._end(blob, wanted, start, self._most_of_origin(source))
            if self.shares is not None:  # who joins later takes its part of what is not begun
                end = min(end, start + self._peer_blocks)
            if trial:
                end = min(end, start + self._piece_blocks)
            return Choice(source, start, end, compare)
        return None

    def _most_of_origin(self, origin: SourceState) -> int:
        """Bytes that one request asks of it: more where no peer may come to have them first."""
        if self.shares is not None or self._healthy or self._slow:
            return self._options.run_bytes
        return lone_run_bytes(origin.block_s, self._options)

    def _asked(self) -> int:
        return sum(s.in_flight for s in self._origins)

    def _is_trial_due(self) -> bool:
        """Peers so slow that the origin may well be faster, and it was never measured."""
        if any(s.block_s is not None or s.in_flight for s in self._origins):
            return False
        known = [s.block_s for s in self._healthy if s.block_s is not None]
        return bool(known) and min(known) > self._options.spare_above_block_s

    def _best_origin(self, origins: list[SourceState]) -> SourceState:
        return min(origins, key=self._origin_key)

    def _origin_key(self, source: SourceState) -> tuple[int, int, int, float]:
        return source.kind, source.failures, source.in_flight, self._chance()
