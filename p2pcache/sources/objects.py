"""What lists of objects have in common, whichever store they are of: names, versions, notes. Pure.

An object store knows keys, and no folders: what no folder can hold is refused here.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

from p2pcache.content.names import safe_path
from p2pcache.errors import Untrusted
from p2pcache.sources import headers

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from p2pcache.sources.port import ListedFile

NAMED_BY_ARRIVAL = "named by what arrived: the bucket has no sha256 of {count} of {total} files"

MAX_EMPTY_PAGES = 100  # in a row: both clouds give pages without a name that are not the last

_HEX = re.compile(r"[0-9a-f]{64}")


def prefix_of(key: str | None, *, single: bool) -> str:
    """What of the keys is no part of the files' names. `single`: the key is that one object."""
    if key is None:
        return ""
    parent, slash, _ = key.rpartition("/")
    return parent + slash if single else f"{key}/"


def check_paths(keys: Sequence[str], prefix: str, name: str) -> None:
    """Raise Untrusted for a key that is no safe name, and for a file whose name is a folder's too:
    a store has both, no file system has.
    """
    paths = set()
    for key in keys:
        safe_path(key)  # URLs lose a `..` on their way, whatever stands before it
        paths.add(safe_path(key.removeprefix(prefix)))
    if len(paths) < len(keys):
        raise Untrusted(f"{name} lists a file twice")
    for path in paths:
        above = path
        while above := above.rpartition("/")[0]:
            if above in paths:
                raise Untrusted(
                    f"in {name} the key {above!r} is an object, and {path!r} is below it",
                    hint="no folder can hold both: rename one, or get them one by one",
                )


def one_of_all(rows: Iterable[tuple[str, int, str | None]]) -> str | None:
    """What is another one when any of the objects is: key, size, version. None: some have none."""
    listed = list(rows)
    if any(version is None for _, _, version in listed):
        return None
    text = "\n".join(f"{key}\0{size}\0{version}" for key, size, version in listed)
    return f"list:{hashlib.sha256(text.encode()).hexdigest()}"


def notes_of(files: Sequence[ListedFile]) -> tuple[str, ...]:
    """What the user is told about names."""
    nameless = sum(file.digest is None for file in files)
    return (NAMED_BY_ARRIVAL.format(count=nameless, total=len(files)),) if nameless else ()


def checked_size(value: object, key: str) -> int:
    """A size that can be one. Raises Untrusted."""
    if not isinstance(value, int) or not 0 <= value <= headers.MAX_BLOB_BYTES:
        raise Untrusted(f"the bucket gives no size for {key[:80]!a}")
    return value


def checked_sha256(value: object) -> bytes | None:
    """The sha2-256 that our own uploads write into the metadata."""
    return bytes.fromhex(value) if isinstance(value, str) and _HEX.fullmatch(value) else None
