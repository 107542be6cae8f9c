"""Sets of half-open ranges `[start, end)` of non-negative integers. Immutable; operations return
new sets. Ranges inside are sorted, disjoint and never touch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_RUN = re.compile(rb"[^\0]+")


@dataclass(frozen=True, slots=True)
class RangeSet:
    """`RangeSet.of((0, 5), (9, 12))`."""

    spans: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, *spans: tuple[int, int]) -> RangeSet:
        """A set from any spans, in any order, overlapping or not. Empty spans vanish."""
        merged: list[tuple[int, int]] = []
        for start, end in sorted(spans):
            if start < 0:
                raise ValueError(f"a range cannot start at {start}")
            if start >= end:
                continue
            if merged and start <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
            else:
                merged.append((start, end))
        return cls(tuple(merged))

    @classmethod
    def of_flags(cls, flags: Iterable[object]) -> RangeSet:
        """The positions of truthy flags; of bytes, those that are not zero."""
        if isinstance(flags, bytes):  # looked at 20 times a second, a byte a block
            return cls(tuple(run.span() for run in _RUN.finditer(flags)))
        return cls.of(*((i, i + 1) for i, flag in enumerate(flags) if flag))

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self.spans)

    def __bool__(self) -> bool:
        return bool(self.spans)

    def __contains__(self, value: int) -> bool:
        return any(start <= value < end for start, end in self.spans)

    def __or__(self, other: RangeSet) -> RangeSet:
        return RangeSet.of(*self.spans, *other.spans)

    def __and__(self, other: RangeSet) -> RangeSet:
        return self - (self - other)

    def __sub__(self, other: RangeSet) -> RangeSet:
        out: list[tuple[int, int]] = []
        cuts, at = other.spans, 0
        for first, last in self.spans:
            start = first
            while at < len(cuts) and cuts[at][1] <= start:
                at += 1
            near = at
            while near < len(cuts) and cuts[near][0] < last:
                cut_start, cut_end = cuts[near]
                if cut_start > start:
                    out.append((start, cut_start))
                start = cut_end
                near += 1
            if start < last:
                out.append((start, last))
        return RangeSet(tuple(out))

    def add(self, start: int, end: int) -> RangeSet:
        """With one more span."""
        return self | RangeSet.of((start, end))

    def remove(self, start: int, end: int) -> RangeSet:
        """Without a span."""
        return self - RangeSet.of((start, end))

    def contains(self, start: int, end: int) -> bool:
        """Whether all of a span is in the set; an empty span always is."""
        return not RangeSet.of((start, end)) - self

    def gaps(self, start: int, end: int) -> RangeSet:
        """What of a span is not in the set."""
        return RangeSet.of((start, end)) - self

    @property
    def total(self) -> int:
        """How many integers are in the set."""
        return sum(end - start for start, end in self.spans)
