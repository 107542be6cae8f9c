"""Room: how much there is, what may go for more by policy, and its eviction.

Everything here may run while other processes use the store: a blob that is evicted under a reader
stays readable through its open file.
"""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from p2pcache.content import digests
from p2pcache.errors import DiskFull
from p2pcache.store import policy
from p2pcache.store.order import subdirectories
from p2pcache.store.partial import read_meta
from p2pcache.store.policy import Candidate, Hold, Need, Plan
from p2pcache.store.repair import was_damaged
from p2pcache.store.rooted import is_root

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from pathlib import Path

    from p2pcache.store.blobs import Blobs
    from p2pcache.store.dag_pins import DagPins
    from p2pcache.store.holds import Holds
    from p2pcache.store.index import Index, Row
    from p2pcache.store.layout import Layout, StoreOptions
    from p2pcache.store.lease import LeaseBook
    from p2pcache.store.loose import Loose
    from p2pcache.store.order import Order
    from p2pcache.store.partial import Meta
    from p2pcache.store.records import Records
    from p2pcache.store.rooted import Rooted, RootedBlob
    from p2pcache.store.ties import Ties

_HASH_STEP_BYTES = 1 << 20
_SECTOR_BYTES = 512  # the unit of st_blocks
ASK_S = 5.0  # for all questions of one eviction: a pull that needs room waits for it
_ROUNDS = 3  # of questions about what would go; then all is asked about at once
_TRIES = 2  # to find room without making others wait
_NAMED = 3  # refs in an error


@dataclass(frozen=True, slots=True)
class GcReport:
    """`kept_because` counts the bytes that stayed, by reason; `missing_bytes`: short of the aim."""

    freed_bytes: int
    evicted: int
    kept_because: dict[str, int] = field(default_factory=dict)
    missing_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    """`used_bytes`: blobs, loose blocks and the allocated part of partials. `promised_bytes`: still
    to come.
    """

    used_bytes: int
    blobs: int
    adopted: int
    partials: int
    promised_bytes: int
    disk_free_bytes: int
    loose_blocks: int = 0


@dataclass(frozen=True, slots=True)
class _PartialUse:
    directory: Path
    names: frozenset[bytes]  # of its blob: raw sha2-256 and git sha1, as far as they are known
    allocated: int
    promised: int
    last_used: float
    live: bool


@dataclass(frozen=True, slots=True)
class _Answers:
    """Which blobs stay because nobody else can give them, of those that were asked about."""

    kept: dict[bytes, Hold]
    asked: set[bytes]


class Collector:
    """Eviction of one store. Calls may run side by side with everything else."""

    def __init__(
        self, layout: Layout, options: StoreOptions, index: Index, blobs: Blobs, rooted: Rooted,
        records: Records, leases: LeaseBook, order: Order, loose: Loose, dag_pins: DagPins,
        ties: Ties, holds: Holds,
    ) -> None:  # fmt: skip
        self._layout = layout
        self._options = options
        self._index = index
        self._blobs = blobs
        self._rooted = rooted
        self._records = records
        self._leases = leases
        self._order = order
        self._loose = loose
        self._dag_pins = dag_pins
        self._ties = ties
        self._holds = holds
        self._room = threading.Lock()  # who finds room, until it is promised
        self.replicas: frozenset[bytes] = frozenset()  # raw sha2-256 of what preloads keep
        # Which of these blobs (raw sha2-256) stay because nobody else can give them. May wait for
        # others so many seconds, so nothing that the trio thread needs is locked meanwhile.
        self.keep_last: Callable[[Collection[bytes], float], Mapping[bytes, Hold]] = lambda *_: {}
        # Have others take the copies of these over; waits for it for a while.
        self.hand_over: Callable[[Collection[bytes]], None] = lambda _: None

    # -- room ------------------------------------------------------------------------------------

    def usage(self, *, without: Collection[Path] = ()) -> Usage:
        """What the store holds. `without`: partials that are not counted."""
        ((used, blobs, adopted),) = self._index.read(
            "SELECT coalesce(sum(CASE WHEN path IS NULL THEN size END), 0), "
            "count(*), count(path) FROM blobs"
        )
        rooted = self._rooted.every()
        loose_bytes, loose_blocks = self._loose.usage()
        partials = [use for use in self._partials() if use.directory not in without]
        disk = os.statvfs(self._layout.root)
        return Usage(
            used + loose_bytes
            + sum(blob.size for blob in rooted) + sum(use.allocated for use in partials),
            blobs + len(rooted), adopted, len(partials),
            sum(use.promised for use in partials if use.live), disk.f_bavail * disk.f_frsize,
            loose_blocks,
        )  # fmt: skip

    def _partials(self) -> list[_PartialUse]:
        found = []
        for directory in subdirectories(self._layout.partials):
            meta = read_meta(directory)
            try:
                stat = (directory / "data").stat()
            except FileNotFoundError:
                continue
            allocated = stat.st_blocks * _SECTOR_BYTES
            promised = 0 if meta is None or not meta.total_known else meta.size - allocated
            live = self._leases.holder(directory) is not None
            found.append(
                _PartialUse(
                    directory, _names(directory, meta), allocated, max(promised, 0),
                    stat.st_mtime, live,
                )
            )  # fmt: skip
        return found

    def ensure_room(self, incoming: int, *, running: Callable[[], Collection[bytes]]) -> None:
        """Evict until `incoming` bytes fit; see `room`."""
        with self.room(incoming, running=running):
            pass

    @contextmanager
    def room(
        self,
        incoming: int,
        *,
        running: Callable[[], Collection[bytes]],
        without: Collection[Path] = (),
    ) -> Iterator[None]:
        """Evict until `incoming` bytes fit the budget and the disk; nobody else is given that room
        inside. DiskFull, evicting nothing, when it cannot be reached: it says what is in the way.

        While others are asked what may go, other downloads begin. If they take what was found, it
        is looked for again, and the last time they wait, for ASK_S at most.
        """

        def needed() -> Need:
            usage = self.usage(without=without)
            return policy.room_need(
                incoming, used=usage.used_bytes, capacity=self._options.capacity_bytes,
                promised=usage.promised_bytes, disk_free=usage.disk_free_bytes,
                reserve=self._options.reserve_bytes,
            )  # fmt: skip

        def decided(*, ask: bool) -> tuple[Plan, _Answers]:
            return self._decided(needed, running=running, without=without, ask=ask)

        def again() -> tuple[Plan, _Answers]:
            return decided(ask=False)

        for _ in range(_TRIES):
            with self._room:
                if needed() == Need():
                    yield
                    return
            found, answers = decided(ask=True)
            with self._room:
                plan = self._plan(
                    needed(), running=running(), last_copies=answers.kept, without=without
                )
                if answers.asked >= _in_question(plan) and plan.met >= found.met:
                    self._make(incoming, plan, answers, without, again)
                    yield
                    return
        with self._room:
            self._make(incoming, *again(), without, again)
            yield

    def _make(
        self, incoming: int, plan: Plan, answers: _Answers, without: Collection[Path],
        again: Callable[[], tuple[Plan, _Answers]],
    ) -> None:  # fmt: skip
        for _ in range(_TRIES):
            if not plan.met:
                raise self._full(incoming, self.usage(without=without), plan, answers.kept)
            if self._evict(plan)[1] == len(plan.victims):
                return
            plan, answers = again()  # something was held or pinned since

    def _full(self, incoming: int, usage: Usage, plan: Plan, kept: Collection[bytes]) -> DiskFull:
        capacity = self._options.capacity_bytes
        parts = [
            f"{incoming:,} bytes are needed; {usage.disk_free_bytes:,} are free on the disk",
            f"{self._options.reserve_bytes:,} of them are reserved",
            f"{usage.promised_bytes:,} are promised to running downloads",
            f"the store holds {usage.used_bytes:,}",
        ]
        if capacity is not None:
            parts.append(f"its budget is {capacity:,}")
        short = max(plan.missing.store_bytes, plan.missing.disk_bytes)
        parts.append(f"{short:,} bytes are missing after evicting all that may go")
        parts.extend(
            f"{size:,} bytes stay: {hold.value}"
            for hold, size in plan.kept.items()
            if hold is not Hold.NOT_NEEDED
        )
        hint = "free disk space, unpin or rm models, or raise the store's capacity"
        if kept:
            named = self._records.names_of(kept)
            more = len(named) - _NAMED
            shown = ", ".join(f"`{name}`" for name in named[:_NAMED])
            parts.append(f"nobody else can give {shown}{f' and {more} more' if more > 0 else ''}")
            hint += (
                "; `p2pcache preload` or `export` what nobody else has to keep it elsewhere, "
                "`p2pcache rm REF --force` to lose it"
            )
        return DiskFull("no room: " + "; ".join(parts), hint=hint)

    def collect(
        self, *, target_bytes: int | None, running: Callable[[], Collection[bytes]],
        now: float, dry_run: bool,
    ) -> GcReport:  # fmt: skip
        """Sweep, drop downloads that were given up (`now`: unix seconds), then evict down to
        `target_bytes`, or to the low watermark when above the high. Nobody waits for that room, so
        no copies are handed over for it.
        """
        old = self._given_up(now)
        if not dry_run:
            self._order.sweep()
            self._order.reconcile()
            self._loose.reconcile()
            old = [use for use in old if self._order.discard(use.directory)]
        without = {use.directory for use in old}
        usage = self.usage(without=without)
        if target_bytes is not None:
            need = Need(store_bytes=max(usage.used_bytes - target_bytes, 0))
        else:
            need = self._watermark_need(usage)
        plan, _ = self._decided(lambda: need, running=running, without=without, ask=False)
        if dry_run:
            freed, evicted = sum(victim.disk_bytes for victim in plan.victims), len(plan.victims)
        else:
            freed, evicted = self._evict(plan)
        freed += sum(use.allocated for use in old)
        return GcReport(
            freed, evicted + len(old),
            {hold.value: size for hold, size in plan.kept.items()},
            max(plan.missing.store_bytes, plan.missing.disk_bytes),
        )  # fmt: skip

    def _given_up(self, now: float) -> list[_PartialUse]:
        before = now - self._options.partial_age_s
        pinned = self._records.pinned()
        return [
            use
            for use in self._partials()
            if not use.live and use.last_used < before and pinned.isdisjoint(use.names)
        ]

    def trim(self, *, running: Callable[[], Collection[bytes]]) -> int:
        """Evict down to the low watermark when above the high one; bytes freed."""
        need = self._watermark_need(self.usage())
        if need == Need():
            return 0
        return self._evict(self._decided(lambda: need, running=running, ask=False)[0])[0]

    def _watermark_need(self, usage: Usage) -> Need:
        options = self._options
        need = policy.watermark_need(
            usage.used_bytes, options.capacity_bytes,
            options.high_watermark, options.low_watermark,
        )  # fmt: skip
        return Need(need.store_bytes, max(options.reserve_bytes - usage.disk_free_bytes, 0))

    def _decided(
        self, needed: Callable[[], Need], *, running: Callable[[], Collection[bytes]],
        without: Collection[Path] = (), ask: bool,
    ) -> tuple[Plan, _Answers]:  # fmt: skip
        """A plan whose victims may all go, and what was answered.
        `ask`: where it is not enough, others are asked to take copies over that preloads keep.

        Only what would go is asked about, and the plan that is given was made after the last
        question, so what a pull took hold of meanwhile stays. All questions together have ASK_S. A
        hand-over takes so long that what was needed and answered before it counts no more.
        """
        clock = self._leases.monotonic
        kept: dict[bytes, Hold] = {}
        asked: set[bytes] = set()
        need, rounds, until = needed(), 0, clock() + ASK_S
        while True:
            plan = self._plan(need, running=running(), last_copies=kept, without=without)
            new = _in_question(plan) - asked
            if not new:
                if plan.met or not ask or Hold.REPLICA not in plan.kept:
                    return plan, _Answers(kept, asked)
                ask = False
                self.hand_over(self._in_the_way(plan, running()))
                kept, asked = {}, set()
                need, rounds, until = needed(), 0, clock() + ASK_S
                continue
            rounds += 1
            if rounds > _ROUNDS:
                new |= {row.sha256 for row in self._index.every_row() if row.path is None} - asked
            kept.update(self.keep_last(new, max(0.0, until - clock())))
            asked |= new

    def _in_the_way(self, plan: Plan, running: Collection[bytes]) -> list[bytes]:
        """Replicas, least recently used first, that would give what the plan lacks; none that
        stays for another reason too.
        """
        may = self.replicas - self._records.pinned() - set(running)
        missing = max(plan.missing.store_bytes, plan.missing.disk_bytes)
        found = []
        for row in sorted(self._index.every_row(), key=lambda row: row.last_used):
            if missing > 0 and row.path is None and row.sha256 in may:
                found.append(row.sha256)
                missing -= row.size
        return found

    def _plan(
        self, need: Need, *, running: Collection[bytes], last_copies: Mapping[bytes, Hold],
        without: Collection[Path] = (),
    ) -> Plan:  # fmt: skip
        candidates: list[Candidate] = []
        holds: dict[bytes, Hold] = {}
        pinned: set[bytes] = set()
        if need != Need():
            holds.update(last_copies)
            holds.update(dict.fromkeys(self.replicas, Hold.REPLICA))
            holds.update(dict.fromkeys(running, Hold.RUNNING))
            pinned = self._pinned()
            holds.update(dict.fromkeys(pinned, Hold.PINNED))
        stored = (row for row in self._index.every_row() if row.path is None)
        candidates.extend(self._candidate(row) for row in stored)
        candidates.extend(_rooted_candidate(blob) for blob in self._rooted.every())
        candidates.extend(
            Candidate(multihash, size, size, used, loose=True)
            for multihash, size, used in self._loose.every()
        )
        for use in self._partials():
            key = use.directory.name.encode()
            if use.directory in without:
                continue
            candidates.append(
                Candidate(key, use.allocated, use.allocated, use.last_used, partial=True)
            )
            if use.live:
                holds[key] = Hold.LEASED
            elif not pinned.isdisjoint(use.names):
                holds[key] = Hold.PINNED
        return policy.plan_eviction(candidates, holds, need)

    def _candidate(self, row: Row) -> Candidate:
        try:
            links = self._layout.blob(row.sha256).stat().st_nlink
        except FileNotFoundError:
            return Candidate(row.sha256, row.size, 0, row.last_used)
        return Candidate(row.sha256, row.size, row.size if links == 1 else 0, row.last_used)

    def _pinned(self) -> set[bytes]:
        return self._records.pinned() | self._dag_pins.blobs() | self._dag_pins.blocks()

    def _evict(self, plan: Plan) -> tuple[int, int]:
        """Bytes freed, and how many went: not what was held or pinned since the plan was made."""
        if not plan.victims:
            return 0, 0
        blobs = [v.key for v in plan.victims if not v.partial and not v.loose]
        with self._holds.removal(self._pinned) as each:
            parts = [
                self._blobs.remove([key for key in blobs if not is_root(key)], each),
                self._rooted.remove([key for key in blobs if is_root(key)], each),
                self._loose.remove([v.key for v in plan.victims if v.loose], each),
            ]
        freed, evicted = sum(part[0] for part in parts), sum(len(part[1]) for part in parts)
        self._ties.sweep()
        for victim in plan.victims:
            if victim.partial and self._order.discard(self._layout.partials / victim.key.decode()):
                freed += victim.disk_bytes
                evicted += 1
        return freed, evicted

    def collect_loose(self) -> list[bytes]:
        """Remove all loose blocks that nothing keeps; their multihashes."""
        with self._holds.removal(self._dag_pins.blocks) as each:
            return self._loose.remove([key for key, _, _ in self._loose.every()], each)[1]

    def discard_partial(self, name: bytes) -> int:
        """Drop what was fetched of a blob, unless somebody is fetching it; bytes freed."""
        directory = self._layout.partial(name)
        try:
            allocated = (directory / "data").stat().st_blocks * _SECTOR_BYTES
        except FileNotFoundError:
            return 0
        return allocated if self._order.discard(directory) else 0


def _names(directory: Path, meta: Meta | None) -> frozenset[bytes]:
    damaged = was_damaged(directory)
    if damaged is not None:
        return frozenset(map(digests.raw, damaged.names))
    return frozenset() if meta is None else frozenset([digests.raw(meta.name)])


def _in_question(plan: Plan) -> set[bytes]:
    """Blobs that would go, and that others may have. What has no other name than its root is in no
    manifest, so it is nobody's last copy.
    """
    others = (v.key for v in plan.victims if not v.partial and not v.loose)
    return {key for key in others if not is_root(key)}


def _rooted_candidate(blob: RootedBlob) -> Candidate:
    try:
        links = blob.path.stat().st_nlink
    except FileNotFoundError:
        links = 0
    return Candidate(blob.key, blob.size, blob.size if links == 1 else 0, blob.last_used)
