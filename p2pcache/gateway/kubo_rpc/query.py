"""The arguments of a call as Kubo's clients send them: `arg` for what a command line names, the
options by their long or short names, booleans as `True` or `true`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from p2pcache.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True", ""})  # Go's ParseBool; `?pin=` is true
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})
_UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+(?:\.\d+)?|\.\d+)(ns|us|µs|ms|s|m|h)")


class BadRequest(UsageError):
    """The request itself is malformed: HTTP 400 and a line of text, where other errors are 500."""


class Query:
    """Options and arguments of one call. What nobody asks for is ignored, as Kubo does."""

    def __init__(self, pairs: Sequence[tuple[str, str]]) -> None:
        self._values: dict[str, list[str]] = {}
        for key, value in pairs:
            self._values.setdefault(key, []).append(value)

    def args(self, name: str, least: int = 1) -> list[str]:
        """Every `arg`. Raises BadRequest for fewer than `least`; `name` is what Kubo calls it."""
        found = self._values.get("arg", [])
        if len(found) < least:
            raise BadRequest(f'argument "{name}" is required')
        return found

    def arg(self, name: str) -> str:
        """The first of them."""
        return self.args(name)[0]

    def text(self, *names: str) -> str | None:
        """An option by its long name, then others. Raises BadRequest when it stands there twice."""
        for name in names:
            found = self._values.get(name)
            if found is None:
                continue
            if len(found) > 1:
                shown = " ".join(found)[:200]
                raise BadRequest(
                    f"expected key {name} to have only a single value, received [{shown}]"
                )
            return found[0]
        return None

    def flag(self, *names: str, default: bool = False) -> bool:
        """A boolean option."""
        value = self.text(*names)
        if value is None:
            return default
        if value in _TRUE:
            return True
        if value in _FALSE:
            return False
        raise _not(value, "bool", names[0])

    def integer(self, *names: str, kind: str = "int64") -> int | None:
        """A number, None when it is not given. `kind`: what Kubo calls its type."""
        value = self.text(*names)
        if value is None:
            return None
        try:
            number = int(value, 0)
        except ValueError:
            raise _not(value, kind, names[0]) from None
        if not -(1 << 63) <= number < 1 << 63:
            raise _not(value, kind, names[0])
        return number

    def natural(self, what: str, *names: str) -> int | None:
        """A number that is not negative. Raises UsageError in Kubo's words about `what`."""
        number = self.integer(*names)
        if number is not None and number < 0:
            raise UsageError(f"cannot specify negative {what}")
        return number

    def seconds(self, name: str) -> float | None:
        """A duration as Go writes it: `1m30s`."""
        value = self.text(name)
        if value is None:
            return None
        parts = _PART.findall(value)
        if not parts or "".join(number + unit for number, unit in parts) != value:
            raise BadRequest(f"`{value[:40]}` is no duration: write it like 1m30s")
        return sum(float(number) * _UNITS_S[unit] for number, unit in parts)

    def unsupported(self, *names: str) -> None:
        """Refuse options that would change what the call means and that we do not know. Raises
        UsageError when one is given, and is not `false`.
        """
        for name in names:
            value = self.text(name)
            if value is not None and value not in _FALSE:
                raise UsageError(f"p2pcache does not support the option `{name}` here")


def _not(value: str, kind: str, name: str) -> BadRequest:
    return BadRequest(
        f'could not convert value "{value[:80]}" to type "{kind}" (for option "-{name}")'
    )
