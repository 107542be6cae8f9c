"""Sets of blocks as integers, one bit a block: unions and differences at the speed of memory.

A blob of 20 GiB has 20,480 blocks, 2.5 KB: every operation here is a microsecond or less.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pcache.content.ranges import RangeSet

if TYPE_CHECKING:
    from collections.abc import Iterator


def span(start: int, end: int) -> int:
    """Blocks `[start, end)`."""
    return ((1 << (end - start)) - 1) << start if end > start else 0


def first(mask: int, at: int = 0) -> int:
    """The lowest block of a set at or above `at`, -1 if there is none."""
    rest = mask >> at
    return at + (rest & -rest).bit_length() - 1 if rest else -1


def run_end(mask: int, at: int) -> int:
    """The end of the run of the set that begins at `at` (`at` itself when it is not in the set)."""
    rest = mask >> at
    return at + (~rest & (rest + 1)).bit_length() - 1


def runs(mask: int) -> Iterator[tuple[int, int]]:
    """Every run, in order."""
    at = first(mask)
    while at >= 0:
        end = run_end(mask, at)
        yield at, end
        at = first(mask, end)


def of_ranges(blocks: RangeSet) -> int:
    """From ranges; the caller has bounded them."""
    mask = 0
    for start, end in blocks:
        mask |= span(start, end)
    return mask


def to_ranges(mask: int) -> RangeSet:
    """The same set as ranges."""
    return RangeSet(tuple(runs(mask)))


def of_live(live: bytes) -> int:
    """From one byte a block, nonzero when it is here."""
    text = live[::-1].translate(_DIGITS)
    return int(text, 2) if text else 0


_DIGITS = bytes([0x30] + [0x31] * 255)
