"""Choices of the pull machine that are worth tuning on their own: sizes, delays, concurrency."""

from __future__ import annotations

from dataclasses import dataclass

from p2pcache.lanes.orders import BLOCK_BYTES


@dataclass(frozen=True, slots=True)
class TransferOptions:
    """Bounds of a pull."""

    run_bytes: int = 16 * BLOCK_BYTES  # 4/8/16/32 MiB ranges move 972/1025/1062/1074 MB/s
    # Of an origin that nobody shares with us, what comes in so long is asked for at once, up to...
    lone_run_s: float = 0.25
    # ...this: 1 GiB in 16 ranges instead of 64 costs a MinIO 0.1 CPU-s less and the agent as much.
    lone_run_bytes: int = 64 * BLOCK_BYTES
    batch_files: int = 128  # small files a call: few round trips to a worker, prompt progress
    batch_bytes: int = 8 * BLOCK_BYTES  # and not more than this much
    backoff_first_s: float = 0.5
    backoff_cap_s: float = 30.0
    retry_after_cap_s: float = 300.0  # a source may not park us longer than this
    patience_s: float = 120.0  # without a verified byte, beyond what a source asked us to wait
    strikes: int = 2  # wrong bytes or nonsense for one blob: one more chance, then another source
    max_streams: int = 16  # a request in flight costs a 25 MB process; more never paid off
    peer_requests: int = 8  # in flight to one peer: facts/swarm.md 2
    peer_run_s: float = 0.5  # of what comes in: how much is asked of a peer at once
    peer_batch_bytes: int = BLOCK_BYTES  # of small files, before its rate is known...
    peer_batch_s: float = 1.0  # ...and then about so long: what a frozen peer delays
    stall_s: float = 1.5  # a peer's job without a new block; G11: no piece is delayed more than 2 s
    link_stall_s: float = 10.0  # at most, where our own link is what is slow
    origin_stall_s: float = 5.0  # the same, where a peer has it too; a cold CDN needs seconds
    stall_backoff_s: float = 5.0  # for who stalled or sent other bytes; doubles
    slow_share: float = 0.1  # of the median rate: below it a source loses its pieces
    first_block_s: float = 0.5  # of a peer that never brought one: then an origin is not spared
    spare_above_block_s: float = 1.0  # peers slower than this: the origin is tried with one piece
    duplicate_share: float = 0.02  # of all bytes, asked for twice in the endgame (anchors G5)
    hope_s: float = 5.0  # for another peer to appear with what nobody has
    # For a peer that had it to be linked again, from when its link ended: a dead link is noticed
    # 8-11 s after its last byte and dialled again for 0.5, 1, 2, 4 s; an agent restarts in 1-10 s.
    return_s: float = 20.0


def backoff_s(failures: int, chance: float, options: TransferOptions) -> float:
    """Seconds to leave a source alone after its n-th failure in a row (n >= 1).

    Exponential with full jitter on the upper half: `chance` in [0, 1) keeps many agents that were
    refused together from coming back together.
    """
    ceiling = min(options.backoff_cap_s, options.backoff_first_s * 2.0 ** min(failures - 1, 16))
    return ceiling * (0.5 + 0.5 * chance)


def lone_run_bytes(block_s: float | None, options: TransferOptions) -> int:
    """Bytes that a request may take at an origin that only we ask, which takes `block_s` for a
    block (None: nobody knows yet). A slow one gets short requests: the last of them is waited for.
    """
    if not block_s:
        return options.run_bytes
    fits = int(options.lone_run_s / block_s) * BLOCK_BYTES
    return min(max(fits, options.run_bytes), options.lone_run_bytes)


def run_limit(missing_bytes: int, piece_bytes: int, streams: int, most_bytes: int) -> int:
    """Bytes that one job may take, `most_bytes` at most: long runs first, pieces near the end.

    Guided self-scheduling: half of an even share of what is left, so that no stream ends much
    later than the others; never less than a piece, in whole pieces.
    """
    share = missing_bytes // (2 * max(1, streams))
    pieces = max(1, min(share, most_bytes) // piece_bytes)
    return pieces * piece_bytes


def piece_bytes(total_bytes: int) -> int:
    """The unit that is scheduled: the manifest's size / 512, 1 to 16 MiB, in whole blocks."""
    blocks = -(-total_bytes // (512 * BLOCK_BYTES))
    return min(16, max(1, blocks)) * BLOCK_BYTES


class StreamTuner:
    """How many requests to keep in flight: start with the cores, grow while it pays.

    Where the cores are the limit, more streams than cores cost 20-25 % (measured); where a far or
    slow origin is, they idle and another stream may help. So: grow only while cores idle, keep a
    step only if the rate rose with it, and give streams back when the cores are needed (by us or
    by anybody else on the machine). CPU time per stream is no signal: it falls just as much when
    other programs take the cores away.

    A rate far below what the cores move says at once that the network is the limit. Then a request
    costs next to nothing, and with fewer than `FEW` a link idles between two of them (in virtual
    time, 8 nodes: 1.38, 1.14, 1.08 of the bound with 2, 3, 5).

    `hash_beside`: another process hashes the whole in order. Where all cores are busy one is its
    own: what runs ahead of it only makes it late, and it is waited for.
    """

    IDLE_ENOUGH = 0.35  # share of the machine's CPU time: a worker at full speed needs one core
    BUSY = 0.10
    PAYS = 1.15  # a rate that rose less than this is noise
    FEW = 5  # one to the origin, four to peers
    NETWORK_BYTES_PER_S = 32e6  # a core: it moves and hashes 250-400 MB/s

    def __init__(self, cores: int, options: TransferOptions, *, hash_beside: bool = False) -> None:
        self.streams = max(1, min(4, cores, options.max_streams))
        self.floor = max(1, min(self.streams, cores - hash_beside))
        self._cores = cores
        self._ceiling = options.max_streams
        self._before: tuple[int, float] | None = None
        self._settled = False

    def next(self, bytes_per_s: float, idle_share: float) -> int:
        """The count from now on, given the rate and the idle share since the last call."""
        floor = self.floor
        if bytes_per_s < self.NETWORK_BYTES_PER_S * self._cores:
            floor = min(max(floor, self.FEW), self._ceiling)
        if idle_share < self.BUSY:
            self._before = None
            self.streams = max(floor, self.streams // 2)
        elif self._before is not None:
            streams, rate = self._before
            self._before = None
            if bytes_per_s < self.PAYS * rate:
                self.streams, self._settled = streams, True
        self.streams = max(floor, self.streams)
        if (
            not self._settled
            and bytes_per_s > 0
            and idle_share > self.IDLE_ENOUGH
            and self.streams < self._ceiling
        ):
            self._before = (self.streams, bytes_per_s)
            self.streams = min(self._ceiling, self.streams * 2)
        return self.streams
