"""Runs one pull: does what the machine says and tells it what happened. It decides nothing.

Cancelling a pull keeps everything that was verified: workers are killed (their sockets close),
partials are flushed and their leases given back, and the next pull goes on from there.

    steps.py      the machine with its clock, its account and who watches its steps
    jobs.py       its requests, as orders to workers
    watching.py   progress, and how many requests pay
"""

from __future__ import annotations

import math
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, assert_never

import trio

from p2pcache.content.peerid import format_peer_id
from p2pcache.errors import DiskFull, P2PCacheError, plain_errors
from p2pcache.lanes.orders import BLOCK_BYTES, FaultKind, FetchLimits
from p2pcache.sources.port import SourceKind
from p2pcache.transfer import events as ev
from p2pcache.transfer.faults import fault_of, no_source
from p2pcache.transfer.growing import HASH_ONCE_BYTES, GrowingBlob
from p2pcache.transfer.jobs import Jobs
from p2pcache.transfer.machine.owners import OwnerOptions
from p2pcache.transfer.policy import StreamTuner, TransferOptions, piece_bytes
from p2pcache.transfer.sharing import Peers
from p2pcache.transfer.spending import uncounted
from p2pcache.transfer.standstill import Standstill
from p2pcache.transfer.steps import SEEDS, Setup, Steps
from p2pcache.transfer.swarming import HELLO_S, Swarming
from p2pcache.transfer.watching import PROGRESS_BEAT_S, Watching

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from p2pcache.store.rooted import AnyBlob
    from p2pcache.store.store import Hold, Store
    from p2pcache.transfer.account import Tally
    from p2pcache.transfer.machine import Statistics
    from p2pcache.transfer.progress import Progress
    from p2pcache.transfer.sharing import PeersLater
    from p2pcache.transfer.spending import Spending
    from p2pcache.transfer.steps import Watcher
    from p2pcache.transfer.want import Origin, Wanted
    from p2pcache.transfer.workers import Workers

SAY_BEAT_S = 0.05  # among peers: a block that is announced late is a link that idles
MAX_TOGETHER = 256  # events that the machine is told before it plans again
DRY_TURNS = 3  # of the loop, without an event: no more come together
LIMITED_SINGLE_STREAM = 32 << 20  # bytes/s: below this limit one stream is enough and more exact


class Driver:
    """One run of the machine over the blobs that are not here yet."""

    def __init__(
        self,
        wanted: Sequence[Wanted],
        origins: Sequence[Origin],
        store: Store,
        workers: Workers,
        *,
        options: TransferOptions,
        limits: FetchLimits,
        cores: int,
        chance: Callable[[], float],
        watch: Callable[[Progress], None],
        hold: Hold,
        peers: Peers | PeersLater | None = None,
        total_bytes: int | None = None,
        spending: Spending | None = None,
        trace: Watcher | None = None,
        hash_once: bool = False,
    ) -> None:
        self._wanted = list(wanted)
        self._origins = list(origins)
        # Peers are told of blocks by their hashes, and a Kubo may have others under that name.
        only_origins = all(origin.kind is SourceKind.ORIGIN for origin in self._origins)
        self._hash_once = hash_once and only_origins and not isinstance(peers, Peers)
        self._store = store
        self._workers = workers
        self._options = options
        self._hold = hold
        self._spending = spending or uncounted()
        beside = self._hash_once and any(w.size_bytes >= HASH_ONCE_BYTES for w in self._wanted)
        self._tuner = StreamTuner(cores, options, hash_beside=beside)
        streams = self._tuner.streams
        rate = limits.rate_bytes_per_s
        if rate is not None and rate < LIMITED_SINGLE_STREAM:
            streams = 1
        self._limited = rate is not None
        setup = self._setup(
            peers if isinstance(peers, Peers) else None,
            piece_bytes(total_bytes or sum(w.size_bytes for w in self._wanted)),
            streams,
            seed=int(chance() * SEEDS),
        )
        self._steps = Steps(setup, [w.path for w in self._wanted], trio.current_time, trace)
        self._standstill = Standstill()
        # as many answers may be on their way as there are requests and blobs being opened
        self._send, self._receive = trio.open_memory_channel[ev.Event](4 * options.max_streams)
        self._growing: dict[int, GrowingBlob] = {}
        self.blobs: dict[int, AnyBlob] = {}
        self._jobs = Jobs(
            self._wanted, self._origins, store, workers, options=options,
            limits=limits if rate is None else _share(limits, rate / streams),
            hold=hold, growing=self._growing, send=self._send, arrived=self._arrived,
            spending=self._spending,
        )  # fmt: skip
        self._swarming = self._swarm(peers) if isinstance(peers, Peers) else None
        self._jobs.swarming = self._swarming
        self._later = None if isinstance(peers, Peers) else peers
        self._watching = Watching(self._wanted, self.blobs, self._growing, self.statistics, watch)
        self._kept_bytes = 0
        self.verify_s = self.fetch_s = 0.0

    def _setup(self, peers: Peers | None, piece_bytes: int, streams: int, *, seed: int) -> Setup:
        """Who may bring what from an origin is shared with others when we have a name they know."""
        me: str | None = None
        members: tuple[str, ...] = ()
        shared = any(origin.kind is SourceKind.ORIGIN for origin in self._origins)
        if peers is not None and peers.signer is not None and shared:
            me = format_peer_id(peers.signer.peer_id)
            members = tuple(format_peer_id(peer) for peer in peers.swarm.members())
        return Setup(
            blobs=tuple(
                ev.BlobSpec(i, w.size_bytes, w.size_bytes <= BLOCK_BYTES, w.whole)
                for i, w in enumerate(self._wanted)
            ),
            names=tuple(w.name for w in self._wanted),
            piece_bytes=piece_bytes,
            streams=streams,
            options=self._options,
            seed=seed,
            hopeful=peers is not None,
            origins=tuple(origin.name for origin in self._origins),
            me=me,
            members=members,
            owners=_owner_options(
                None if peers is None else peers.told_s, self._options.patience_s
            ),
        )

    @property
    def best_bytes_per_s(self) -> float:
        """The best second of this pull."""
        return self._watching.best_bytes_per_s

    @property
    def hosts(self) -> dict[str, str]:
        """`host:port` of each peer that was asked for bytes."""
        return {} if self._swarming is None else self._swarming.hosts()

    def statistics(self) -> Statistics:
        """Counters of the machine."""
        return self._steps.statistics()

    def tally(self) -> Tally:
        """The account; its times add up to `fetch_s` once the pull has ended."""
        return self._steps.tally()

    def _swarm(self, peers: Peers) -> Swarming:
        return Swarming(
            peers, self._wanted, self._send, requests=self._options.peer_requests,
            heard_throttled=self._spending.heard_throttled,
        )  # fmt: skip

    async def run(self) -> None:
        """Bring everything into the store. Raises the one error that ended the pull."""
        blocks = sum(max(1, -(-w.size_bytes // BLOCK_BYTES)) for w in self._wanted)
        self._workers.prepare(min(self._tuner.floor + 1, blocks))  # the last for the whole digest
        try:
            with plain_errors():
                # leases are given back last: tasks that are being cancelled still use their partial
                async with AsyncExitStack() as closing, trio.open_nursery() as nursery:
                    closing.push_async_callback(self._close_all)
                    closing.callback(self._count_kept)
                    nursery.start_soon(self._watching.beat)
                    nursery.start_soon(self._standstill.run)
                    if not self._limited:
                        nursery.start_soon(self._watching.adapt, self._tuner, self._send)
                    if self._swarming is not None:
                        nursery.start_soon(self._swarming.run)
                    if self._swarming is not None or len(self._origins) > 1:
                        nursery.start_soon(self._look)
                    if self._later is not None:
                        nursery.start_soon(self._join_later, self._later)
                    await self._loop(nursery)
                    nursery.cancel_scope.cancel()
        except DiskFull as exc:
            total = sum(w.size_bytes for w in self._wanted)
            counts = f"{self._kept_bytes:,} of {total:,} bytes are verified and kept"
            raise DiskFull(f"{exc.message}; {counts}", hint=exc.hint) from exc
        finally:
            self.fetch_s = self._steps.close()

    def _count_kept(self) -> None:
        self._kept_bytes = (
            self._watching.progress().done_bytes
        )  # partials that are closed tell nothing

    async def _close_all(self) -> None:
        """Give every lease back, also when a full disk refuses the flush of one of them."""
        async with AsyncExitStack() as closing:
            for growing in self._growing.values():
                closing.push_async_callback(growing.aclose)

    async def _loop(self, nursery: trio.Nursery) -> None:
        wake, reached = math.inf, 0.0
        starting = [ev.SourceUp(o.name, o.kind, o.streams, self._held_by(o)) for o in self._origins]
        pending: list[ev.Event] = [*starting, ev.Tick()]
        if self._swarming is not None:
            pending = [*self._swarming.places(), ev.Tick()]
            nursery.start_soon(self._origins_later, self._swarming, starting)
        else:
            nursery.start_soon(self._hear_more)
        while True:
            for action in self._steps.take(pending, reached):
                if isinstance(action, ev.Finished):
                    return
                if isinstance(action, ev.Wake):
                    wake = action.at
                else:
                    self._do(action, nursery)
            pending, reached = [], 0.0
            with trio.move_on_at(self._steps.deadline(wake)):
                pending = [await self._receive.receive()]
            if pending:
                await self._gather(pending)
            else:
                wake, reached = math.inf, wake
                pending = [ev.Tick()]
            if stood_s := self._standstill.take():
                pending.insert(0, ev.StoodStill(stood_s))

    def _held_by(self, origin: Origin) -> frozenset[int] | None:
        if origin.holds is None:
            return None
        return frozenset(i for i, w in enumerate(self._wanted) if w.key in origin.holds)

    async def _gather(self, pending: list[ev.Event]) -> None:
        """What comes within a few turns of the loop is planned for together: peers tell of
        thousands of files at once, and small files travel in batches of what is known by then.
        """
        dry = 0
        while len(pending) < MAX_TOGETHER and dry < DRY_TURNS:
            try:
                pending.append(self._receive.receive_nowait())
                dry = 0
            except trio.WouldBlock:
                dry += 1
                await trio.lowlevel.checkpoint()

    async def _origins_later(self, swarming: Swarming, starting: list[ev.SourceUp]) -> None:
        """Those that are spared come last: a joiner that asks at once brings all of it again."""
        await swarming.wait_hello()
        if swarming.was_warned:  # of places: which origin is at one of them is known when located
            for origin in self._origins:
                with suppress(P2PCacheError):  # it will be told when it is asked for bytes
                    await self._jobs.locate_first(origin.name)
        for event in starting:
            await self._send.send(event)
        await self._hear_more()

    async def _hear_more(self) -> None:
        """What origins turn out to have, once the machine knows of them."""
        for origin in self._origins:
            if origin.more is not None:
                async for key in origin.more:
                    for i, wanted in enumerate(self._wanted):
                        if wanted.key == key:
                            await self._send.send(ev.SourceHas(origin.name, i))

    async def _join_later(self, later: PeersLater) -> None:
        """Peers that come in the middle. They are told of what arrives from now on, and of whole
        blobs: who sent the blocks before was not kept.
        """
        async with later() as peers:
            await self._hash_all()
            swarming = self._swarm(peers)
            for blob in self.blobs:
                swarming.here_before(blob)
            for blob, growing in self._growing.items():
                if growing.is_open:
                    swarming.opened(blob, growing)
            self._swarming = self._jobs.swarming = swarming
            await self._send.send(ev.Listening())
            async with trio.open_nursery() as nursery:
                nursery.start_soon(swarming.run)
                if len(self._origins) <= 1:  # otherwise it runs
                    nursery.start_soon(self._look)

    async def _hash_all(self) -> None:
        """From now on somebody asks for the hashes of blocks."""
        self._hash_once = False
        for growing in self._growing.values():
            growing.hash_at_once()
        await self._jobs.end_unhashed()
        for growing in list(self._growing.values()):
            await growing.fill_map()

    def _do(self, action: ev.Action, nursery: trio.Nursery) -> None:
        match action:
            case ev.Open(blob):
                growing = GrowingBlob(
                    self._wanted[blob],
                    self._store,
                    self._workers,
                    self._hold,
                    self._options.patience_s,
                    hash_once=self._hash_once,
                )
                self._growing[blob] = growing
                nursery.start_soon(self._open, blob, growing, nursery)
            case ev.Fetch(job):
                self._jobs.start(job, nursery)
            case ev.FetchBatch(batch):
                self._jobs.start_batch(batch, nursery)
            case ev.Abort(job):
                self._jobs.stop(job.id)
            case ev.Say():
                if self._swarming is not None:
                    self._swarming.say(action)
            case ev.Doubt(blob, blocks):
                if self._swarming is not None:
                    self._swarming.doubt(blob, blocks)
            case ev.Digest(blob, again):
                nursery.start_soon(self._digest, blob, again)
            case ev.Failed(blobs, faults, lost):
                paths = [self._wanted[i].path for i in blobs]
                raise no_source(paths, len(self._wanted), faults, lost)
            case ev.Banned() | ev.Suspect() | ev.Wake() | ev.Finished():
                pass  # the first two are for the account; the others end in `_loop`
            case _:
                assert_never(action)

    async def _open(self, blob: int, growing: GrowingBlob, nursery: trio.Nursery) -> None:
        found = await growing.open()
        if found is not None:
            self._watching.here_bytes += self._wanted[blob].size_bytes
            del self._growing[blob]
            await self._arrived(blob, found)
            await self._send.send(ev.Settled(blob))
            return
        self._watching.here_bytes += growing.live_bytes()
        nursery.start_soon(growing.follow)
        nursery.start_soon(growing.keep_flushed)
        if self._swarming is not None:
            self._swarming.opened(blob, growing)
            await self._swarming.learn_maps(blob)
        await self._send.send(ev.Opened(blob, growing.live()))

    async def _digest(self, blob: int, again: bool) -> None:
        growing = self._growing[blob]
        started = trio.current_time()
        message = ""
        info = None
        try:
            info = await growing.finish(again)
        except P2PCacheError as exc:
            if fault_of(exc).kind is not FaultKind.UNTRUSTED:
                raise
            message = exc.message
        self.verify_s += trio.current_time() - started
        suspects = None
        if info is not None:
            del self._growing[blob]
            await self._arrived(blob, info, growing.final_map)
        elif self._swarming is not None:
            suspects = await self._swarming.suspects(blob)
        await self._send.send(ev.Digested(blob, info is not None, message, suspects))

    async def _arrived(self, blob: int, info: AnyBlob, hashes: bytes | None = None) -> None:
        """It is in the store."""
        self.blobs[blob] = info
        if self._swarming is not None:
            await self._swarming.completed(blob, info, hashes)

    async def _look(self) -> None:
        """Tell how far running jobs are, so that who stalls is noticed; announce what is new."""
        while True:
            await trio.sleep(PROGRESS_BEAT_S if self._swarming is None else SAY_BEAT_S)
            for blob, growing in list(self._growing.items()):
                if not growing.is_open:
                    continue
                live = growing.live()
                await self._jobs.look(blob, growing, live)
                if self._swarming is not None and growing.is_open:
                    self._swarming.share(blob, growing, live)


def _share(limits: FetchLimits, rate_bytes_per_s: float) -> FetchLimits:
    floor = min(limits.floor_bytes_per_s, rate_bytes_per_s / 4)
    return replace(limits, rate_bytes_per_s=rate_bytes_per_s, floor_bytes_per_s=floor)


def _owner_options(told_s: float | None, patience_s: float) -> OwnerOptions:
    """Blind as long as a word of who starts beside us may be on its way. Ours is said when the pull
    begins, HELLO_S before anybody asks an origin; where all members just answered, theirs takes no
    longer than that did, twice for safety. A member that starts later hears ours first.
    """
    usual = OwnerOptions()
    lease_most_s = min(usual.lease_most_s, patience_s / 3)
    if told_s is None:
        return replace(usual, lease_most_s=lease_most_s)
    blind_s = min(usual.blind_s, HELLO_S + 2 * told_s)
    return replace(usual, blind_s=blind_s, lease_most_s=lease_most_s)
