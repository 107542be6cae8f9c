"""`Range:` and conditions of one representation (RFC 9110 13 and 14). Pure."""

from __future__ import annotations

import re

_RANGE = re.compile(r"\s*([0-9]{0,19})\s*-\s*([0-9]{0,19})\s*")
_MAX_CHARS = 4096  # of a header of ranges: 10,000 of them end there or at the first comma


class Unsatisfiable(Exception):
    """The answer is 416 with `Content-Range: bytes */SIZE`."""


def parse_range(text: str | None, size: int) -> tuple[int, int] | None:
    """The half-open range that is asked for of `size` bytes; None for all of it.

    Another unit is ignored; of several ranges the first one is answered, as Kubo does. Raises
    Unsatisfiable: it begins behind the end, runs backwards, or is no range.
    """
    if text is None:
        return None
    unit, equals, ranges = text[:_MAX_CHARS].partition("=")
    if unit.strip().lower() != "bytes":
        return None
    found = _RANGE.fullmatch(ranges.split(",")[0]) if equals else None
    if found is None or found[1] == found[2] == "":
        raise Unsatisfiable
    if not found[1]:
        start, end = max(size - int(found[2]), 0), size
    else:
        start, end = int(found[1]), min(int(found[2]) + 1, size) if found[2] else size
    if start >= end:
        raise Unsatisfiable
    return start, end


def matches(condition: str | None, etag: str) -> bool:
    """Whether `If-None-Match` names this ETag, compared weakly."""
    if condition is None:
        return False
    opaque = etag.removeprefix("W/")
    named = (word.strip().removeprefix("W/") for word in condition[:_MAX_CHARS].split(","))
    return any(word in (opaque, "*") for word in named)


def range_holds(condition: str | None, etag: str) -> bool:
    """Whether a range is to be served under `If-Range`: only strong equality counts."""
    return condition is None or (condition.strip() == etag and not etag.startswith("W/"))
