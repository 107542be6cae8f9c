"""Choose files by name patterns, with the rules of huggingface_hub's `allow_patterns`.

Standard wildcards (`*`, `?`, `[seq]`, `[!seq]`), case-sensitive on every platform, matched against
the whole path. `*` also matches `/`: `data/*.json` takes `data/a.json` and `data/deep/a.json`. A
pattern that ends in `/` means everything below: `data/` is `data/*`. A backslash is a separator,
as patterns come from `os.path.join` on Windows too. There is no `**`: it is two `*`.

A path is chosen when it matches at least one include pattern (or there are none) and no exclude
pattern: exclude wins.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from p2pcache.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_PATTERNS = 1000  # each costs a regular expression per file: 1000 x 1e6 files is already minutes
MAX_PATTERN_CHARS = 4096  # as long as the longest path that `names` lets in


class Selection:
    """Include and exclude patterns, made ready once. Raises UsageError on a pattern out of bounds.

    An empty `include` takes everything; note that huggingface_hub takes nothing for an empty
    *list* and everything for None. Here both mean that no wish was given.
    """

    __slots__ = ("exclude", "include")

    def __init__(self, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> None:
        self.include = _prepared(include)
        self.exclude = _prepared(exclude)

    def takes(self, path: str) -> bool:
        """Whether `path` (relative, `/` between components) is chosen."""
        if self.include and not any(fnmatchcase(path, pattern) for pattern in self.include):
            return False
        return not any(fnmatchcase(path, pattern) for pattern in self.exclude)


def _prepared(patterns: Sequence[str]) -> tuple[str, ...]:
    if isinstance(patterns, str):  # a bare string is a sequence too: of one-letter patterns
        patterns = (patterns,)
    if len(patterns) > MAX_PATTERNS:
        raise UsageError(f"{len(patterns)} patterns given; at most {MAX_PATTERNS} are taken")
    return tuple(_one(pattern) for pattern in patterns)


def _one(pattern: str) -> str:
    if not pattern or len(pattern) > MAX_PATTERN_CHARS:
        raise UsageError(f"not a pattern: {pattern[:80]!r}", hint='for example "*.safetensors"')
    slashed = pattern.replace("\\", "/")
    return slashed + "*" if slashed.endswith("/") else slashed
