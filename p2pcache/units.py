"""Text to bytes and seconds, and back. Parsed once, at the edge; inside are plain numbers."""

from __future__ import annotations

import re

from p2pcache.errors import UsageError

_BYTES = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgtp]?)(i?)b?(?:/s)?\s*", re.IGNORECASE)
_POWER = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?\s*", re.IGNORECASE)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_bytes(text: str) -> int:
    """`4 MiB` is 4 * 2**20, `4 MB` is 4 * 10**6, `4M` (as in curl) is 4 * 2**20, `512` is bytes."""
    match = _BYTES.fullmatch(text)
    if match is None:
        raise UsageError(f"`{text}` is not a number of bytes", hint="like `512 MiB` or `10M`")
    number, prefix, binary = match.groups()
    decimal = prefix and not binary and "b" in text.lower()
    base = 1000 if decimal else 1024
    value = float(number) * base ** _POWER[prefix.lower()]
    if value < 1:
        raise UsageError(f"`{text}` is less than one byte")
    return int(value)


def parse_duration(text: str) -> float:
    """Seconds from `30s`, `500 ms`, `2m`, `1h`, `1d`; a bare number is seconds."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise UsageError(f"`{text}` is not a duration", hint="like `30s` or `5m`")
    number, unit = match.groups()
    return float(number) * _SECONDS[(unit or "s").lower()]


def format_bytes(count: float) -> str:
    """Three significant digits and a binary unit: `812 MiB`, `4.90 GiB`."""
    value, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        if value < 1000:
            break
        value, unit = value / 1024, larger
    if unit == "B":
        return f"{int(value)} B"
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{digits}f} {unit}"


def format_duration(seconds: float) -> str:
    """`0.4s`, `12s`, `3m 05s`, `2h 10m`."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
