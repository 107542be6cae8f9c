"""Sizes, rates and times as people write them. What cannot be parsed is a ValueError.

`M` and `MB` are powers of ten, `Mi` and `MiB` powers of two. Output is always in powers of two,
with the unit that says so.
"""

from __future__ import annotations

import math
import re

MAX_EXPIRES_S = 3650 * 86400.0  # of an invitation or a grant; beyond years nobody means it
MAX_BYTES = 1 << 62  # what fits the index's and the wire's signed 64-bit integers with room to add

_SIZE = re.compile(r"(\d{1,18}(?:\.\d{1,18})?)\s*([A-Za-z]*)")
_DECIMAL = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "p": 10**15, "e": 10**18}
_FACTORS: dict[str, int] = (
    {f"{prefix}{b}": factor for prefix, factor in _DECIMAL.items() for b in ("", "b")}
    | {f"{p}i{b}": 1024 ** (n + 1) for n, p in enumerate("kmgtpe") for b in ("", "b")}
    | {"bytes": 1}
)
_DURATION = re.compile(r"(\d{1,12}(?:\.\d{1,9})?)\s*(ms|s|m|h|d)", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def parse_bytes(text: str) -> int:
    """A byte count: `512`, `10M`, `1 MiB`, `1.5GB`. Raises ValueError with an example."""
    found = _SIZE.fullmatch(text.strip())
    factor = _FACTORS.get(found[2].lower()) if found else None
    if found is None or factor is None or not text.isascii():
        raise ValueError(f"{text!r} is not a size; write it like 500M, 1.5GB or 4 MiB")
    # Whole numbers stay exact: a float loses bytes above 2**53.
    count = int(found[1]) * factor if found[1].isdigit() else round(float(found[1]) * factor)
    if count > MAX_BYTES:
        raise ValueError(f"{text!r} is more than {format_bytes(MAX_BYTES)}")
    return count


def parse_rate(text: str) -> int:
    """Bytes per second, at least 1: a size, with or without `/s`."""
    bytes_per_s = parse_bytes(text.strip().removesuffix("/s"))
    if bytes_per_s < 1:
        raise ValueError(f"{text!r} is not a rate; it must be at least one byte per second")
    return bytes_per_s


def parse_duration(text: str) -> float:
    """Seconds: `30s`, `250ms`, `1h30m`, `2 d`. A bare number is refused: its unit is a guess."""
    compact = text.strip().replace(" ", "").lower()
    parts = _DURATION.findall(compact)
    if not parts or "".join(number + unit for number, unit in parts) != compact:
        raise ValueError(f"{text!r} is not a time; write it like 30s, 250ms or 1h30m")
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def parse_expiry(text: str) -> int:
    """Whole seconds after which something expires: 1 to `MAX_EXPIRES_S`, or a ValueError."""
    try:
        seconds = parse_duration(text)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= MAX_EXPIRES_S:
        raise ValueError(f"{text!r} is not a time from 1s to 3650d; write it like 30m, 24h or 7d")
    return round(seconds)


def format_bytes(count: float) -> str:
    """`0 B`, `999 B`, `1.0 KiB`, `812 MiB`: at most three digits and a unit."""
    power = _power(count)
    if power == 0:
        return f"{count:.0f} B"  # there are no parts of a byte
    return f"{_three_digits(count / 1024**power)} {_BINARY[power]}"


def exact_bytes(count: float) -> str:
    """The same number in the largest unit that divides it: `512 MiB`; nothing is rounded."""
    power = 0
    while count % 1024 == 0 and count and power < len(_BINARY) - 1:
        count, power = count / 1024, power + 1
    return f"{count:.15g} {_BINARY[power]}"


def format_progress(done: int, total: int) -> str:
    """`3.1/4.9 GiB`: both in the unit of the total."""
    power = _power(total)
    scale = 1024**power
    if power == 0:
        return f"{done}/{total} B"
    return f"{_three_digits(done / scale)}/{_three_digits(total / scale)} {_BINARY[power]}"


def format_count(count: int, thing: str) -> str:
    """`1 file`, `2 files`, `2 copies`."""
    if count == 1:
        return f"1 {thing}"
    return f"{count} {thing[:-1]}ies" if thing.endswith("y") else f"{count} {thing}s"


def format_rate(bytes_per_s: float) -> str:
    """`812 MiB/s`."""
    return f"{format_bytes(bytes_per_s)}/s"


def format_duration(seconds: float) -> str:
    """`0.03s`, `3s`, `2m05s`, `1h02m`, `3d04h`: two units at most."""
    if seconds < 9.95:
        return f"{seconds:.2f}s" if seconds < 0.995 else f"{seconds:.1f}s".replace(".0s", "s")
    whole = round(seconds)
    for size, small, unit, small_unit in ((86400, 3600, "d", "h"), (3600, 60, "h", "m")):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // small:02d}{small_unit}"
    return f"{whole}s" if whole < 60 else f"{whole // 60}m{whole % 60:02d}s"


def _power(count: float) -> int:
    """Which unit shows `count` with at most three digits after rounding (1023.9 KiB is 1.0 MiB)."""
    power = 0
    while power < len(_BINARY) - 1 and math.floor(count / 1024**power + 0.5) >= 1000:
        power += 1
    return power


def _three_digits(number: float) -> str:
    return f"{number:.0f}" if number == 0 or number >= 9.95 else f"{number:.1f}"
