"""Choices of the pull machine that are worth tuning on their own: sizes, delays, concurrency."""

from __future__ import annotations

from dataclasses import dataclass

from p2pcache.lanes.orders import BLOCK_BYTES


@dataclass(frozen=True, slots=True)
class TransferOptions:
    """Bounds of a pull."""

    run_bytes: int = 16 * BLOCK_BYTES  # 4/8/16/32 MiB ranges move 972/1025/1062/1074 MB/s
    batch_files: int = 128  # small files a call: few round trips to a worker, prompt progress
    batch_bytes: int = 8 * BLOCK_BYTES  # and not more than this much
    backoff_first_s: float = 0.5
    backoff_cap_s: float = 30.0
    retry_after_cap_s: float = 300.0  # a source may not park us longer than this
    patience_s: float = 120.0  # without one verified byte from anybody the pull fails
    strikes: int = 2  # wrong bytes or nonsense for one blob: one more chance, then another source
    max_streams: int = 16  # a request in flight costs a 25 MB process; more never paid off


def backoff_s(failures: int, chance: float, options: TransferOptions) -> float:
    """Seconds to leave a source alone after its n-th failure in a row (n >= 1).

    Exponential with full jitter on the upper half: `chance` in [0, 1) keeps many agents that were
    refused together from coming back together.
    """
    ceiling = min(options.backoff_cap_s, options.backoff_first_s * 2.0 ** min(failures - 1, 16))
    return ceiling * (0.5 + 0.5 * chance)


def run_limit(missing_bytes: int, piece_bytes: int, streams: int, options: TransferOptions) -> int:
    """Bytes that one job may take: long runs first, pieces near the end.

    Guided self-scheduling: half of an even share of what is left, so that no stream ends much
    later than the others; never less than a piece, in whole pieces.
    """
    share = missing_bytes // (2 * max(1, streams))
    pieces = max(1, min(share, options.run_bytes) // piece_bytes)
    return pieces * piece_bytes


def piece_bytes(total_bytes: int) -> int:
    """The unit that is scheduled: the manifest's size / 512, 1 to 16 MiB, in whole blocks."""
    blocks = -(-total_bytes // (512 * BLOCK_BYTES))
    return min(16, max(1, blocks)) * BLOCK_BYTES


def wanted_streams(
    now_streams: int, cpu_share: float, bytes_per_s: float, cores: int, options: TransferOptions
) -> int:
    """How many requests to keep in flight, from what the last few seconds looked like.

    `cpu_share`: worker CPU seconds per stream second. Above one half the cores are the limit and
    more streams than cores cost 20-25 % (measured); well below it, the network is waited for and
    another stream helps, as long as bytes flow at all.
    """
    floor = max(1, min(4, cores))
    if bytes_per_s <= 0.0:
        return max(floor, min(now_streams, options.max_streams))
    if cpu_share < 0.35 and now_streams * cpu_share < 0.7 * cores:
        return min(options.max_streams, now_streams * 2)
    if cpu_share > 0.6:
        return max(floor, now_streams // 2)
    return now_streams
