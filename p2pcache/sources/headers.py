"""Read what origins put into response headers: pure, bounded, and suspicious.

A header is text from outside. Each function returns None for what it cannot use: an origin that
sends nonsense is treated like one that sends nothing.
"""

from __future__ import annotations

import re
from email.utils import parsedate_to_datetime

MAX_RETRY_AFTER_S = 3600.0  # a hostile or broken "come back next year" must not park a pull
MAX_ETAG_CHARS = 256  # S3 multipart ETags have 35, CDNs up to about 100
MAX_BLOB_BYTES = 1 << 60  # beyond any real file; keeps sums of sizes far from overflow anywhere

_RATELIMIT_RESET = re.compile(r"(?:^|;)\s*t=(\d{1,9})\b")  # the Hub: ratelimit: "api";r=0;t=55
_STRONG_ETAG = re.compile(r'"?([\x21\x23-\x7e]+)"?')  # RFC 9110 8.8.3; olah leaves the quotes out
_CONTENT_RANGE = re.compile(r"bytes (?:(\d{1,19})-(\d{1,19})|\*)/(\d{1,19})")


def retry_after_s(
    retry_after: str | None, ratelimit: str | None, *, now_unix_s: float
) -> float | None:
    """Seconds to wait, from Retry-After (a number or a date) or else the Hub's `ratelimit`."""
    wait_s = _seconds(retry_after, now_unix_s)
    if wait_s is None and ratelimit is not None and (found := _RATELIMIT_RESET.search(ratelimit)):
        wait_s = float(found[1])
    return None if wait_s is None else min(max(wait_s, 0.0), MAX_RETRY_AFTER_S)


def _seconds(retry_after: str | None, now_unix_s: float) -> float | None:
    if retry_after is None:
        return None
    value = retry_after.strip()
    if value.isascii() and value.isdigit():
        return float(value[:12])
    try:
        return parsedate_to_datetime(value).timestamp() - now_unix_s
    except (ValueError, OverflowError):
        return None


def strong_etag(etag: str | None) -> str | None:
    """The opaque part of a strong validator. A weak one (`W/`) does not name bytes."""
    if etag is None or len(etag) > MAX_ETAG_CHARS or etag.startswith(("W/", "w/")):
        return None
    found = _STRONG_ETAG.fullmatch(etag.strip())
    return found[1] if found else None


def total_bytes(content_range: str | None) -> int | None:
    """The whole length from `Content-Range: bytes 0-0/123` (or `bytes */123`)."""
    found = _CONTENT_RANGE.fullmatch((content_range or "").strip())
    return _bounded(found[3]) if found else None


def length_bytes(content_length: str | None) -> int | None:
    """A Content-Length that is one plain number."""
    value = (content_length or "").strip()
    return _bounded(value) if value.isascii() and value.isdigit() and len(value) <= 19 else None


def _bounded(digits: str) -> int | None:
    value = int(digits)
    return value if value <= MAX_BLOB_BYTES else None


def is_encoded(content_encoding: str | None) -> bool:
    """Whether the body is not the file itself (we always ask for `identity`)."""
    return (content_encoding or "identity").strip().lower() not in ("", "identity")
