"""One setting, and how the values of plain ones are read."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from p2pcache.units import exact_bytes, parse_bytes, parse_duration

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_STREAMS = 256  # each is a process of 25 MB: a number beyond this is a slip


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting. `parse` turns text into the value; `default` is a value."""

    key: str
    parse: Callable[[str], Any]
    default: Any
    help: str
    show: Callable[[Any], Any] = lambda value: value  # as plain values, for people and JSON

    @property
    def variable(self) -> str:
        """Its environment variable."""
        return "P2PCACHE_" + self.key.upper().replace(".", "_")

    def text(self, shown: Any) -> str:  # noqa: ANN401 - what `show` gives
        """A value as it may be written in `config.toml`: `512 MiB`, `10s`, `on`."""
        if shown is None or shown in ([], ()):
            return "none"
        if isinstance(shown, bool):
            return "on" if shown else "off"
        if isinstance(shown, list | tuple):
            return ", ".join(map(str, shown))
        if isinstance(shown, int | float) and shown > 0:
            for text in (exact_bytes(shown), f"{shown:g}s"):
                with suppress(ValueError):
                    if self.parse(text) == shown:
                        return text
        return str(shown)


def optional(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """`none` and the empty text mean: not set."""
    return lambda text: None if text.strip().lower() in ("", "none") else parse(text)


def yes(text: str) -> bool:
    """`on` or `off`. Raises ValueError, as all here."""
    word = text.strip().lower()
    if word in ("1", "true", "yes", "on"):
        return True
    if word in ("0", "false", "no", "off"):
        return False
    raise ValueError(f"`{text}` is neither on nor off")


def budget(text: str) -> int:
    """Bytes, some."""
    count = parse_bytes(text)
    if count < 1:
        raise ValueError("a store of no bytes holds nothing; `none` is no limit")
    return count


def number(text: str) -> int:
    """A positive whole number."""
    try:
        value = int(text)
    except ValueError:
        raise ValueError(f"`{text}` is not a whole number") from None
    if value < 1:
        raise ValueError(f"`{text}` is not a positive number")
    return value


def streams(text: str) -> int:
    """A number of requests."""
    count = number(text)
    if count > MAX_STREAMS:
        raise ValueError(f"`{text}` is more than {MAX_STREAMS}")
    return count


def some_time(text: str) -> float:
    """Seconds, more than none."""
    seconds = parse_duration(text)
    if seconds <= 0:
        raise ValueError(f"`{text}` would end everything at once; write it like 30s")
    return seconds
