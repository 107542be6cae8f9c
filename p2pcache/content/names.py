"""Names from outside: the one function that every path passes before it is joined to anything.

Hub listings, manifests from peers, SHA256SUMS files and archives all come through here. What is
refused is what some tool of the past wrote outside its folder, or could not write at all.
"""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING

from p2pcache.errors import Untrusted

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_COMPONENT_BYTES = 255  # NAME_MAX of every file system we know
MAX_PATH_BYTES = 3072  # PATH_MAX is 4096 with the folder's own path: 1 KiB is left for that

_DRIVE = re.compile(r"^[A-Za-z]:")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")  # Unicode Cc, Zl and Zp


def safe_path(text: str) -> str:
    """The path itself when it is a relative one that stays below its folder; else Untrusted.

    Refused: empty; absolute; drive letters, in later components too, as huggingface_hub does;
    backslashes (a separator elsewhere); `.`, `..` and empty components; control characters and
    line breaks; text that is not UTF-8; components over 255 bytes and paths over 3072.
    """
    problem = _problem(text)
    if problem is not None:
        shown = text if len(text) <= 80 else text[:77] + "..."
        raise Untrusted(
            f"the file name {shown!a} is refused: {problem}",
            hint="whoever publishes it has to rename the file",
        )
    return text


def _problem(text: str) -> str | None:
    if not text:
        return "it is empty"
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        return "it is not valid UTF-8"
    if len(encoded) > MAX_PATH_BYTES:
        return f"it has {len(encoded)} bytes, more than {MAX_PATH_BYTES}"
    if text[0] == "/":
        return "it is absolute"
    if "\\" in text:
        return "it has a backslash"
    if _CONTROL.search(text):
        return "it has a control character or a line break"
    for component in text.split("/"):
        if component in ("", ".", ".."):
            return f"it has the component {component!r}"
        if _DRIVE.match(component):  # joined on Windows, it drops every folder before it
            return "a component begins with a drive letter"
        if len(component.encode()) > MAX_COMPONENT_BYTES:
            return f"a component has more than {MAX_COMPONENT_BYTES} bytes"
    return None


def case_collisions(paths: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs that exclude each other where case or Unicode form does not count (macOS, Windows).

    Both name one file, or one names a file and the other needs a folder of that name (`A` beside
    `a/x`). Whoever comes first in `paths` stands first in a pair; every path that another
    excludes is in some pair, though not in all that could be made.
    """
    listed = list(paths)
    # With NUL, which no path has, for the separator, what is below `a` sorts right behind `a`.
    keys = sorted((_caseless(path).replace("/", "\0"), at) for at, path in enumerate(listed))
    pairs: list[tuple[int, int]] = []
    top, first = "", -1
    for key, at in keys:
        if first >= 0 and (key == top or key.startswith(top + "\0")):
            if listed[at] != listed[first]:
                pairs.append((min(first, at), max(first, at)))
        else:
            top, first = key, at
    pairs.sort(key=lambda pair: pair[::-1])
    return [(listed[one], listed[other]) for one, other in pairs]


def _caseless(path: str) -> str:
    """Unicode's canonical caseless form (3.13, D145): folding alone can undo a composition."""
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", path).casefold())
