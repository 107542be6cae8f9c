"""Read pointer files from this machine's disk. Blocking."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from p2pcache.errors import LocalFault, NotFound
from p2pcache.formats.bptr.read import MAX_JSON_BYTES, merged, read_pointers

if TYPE_CHECKING:
    from collections.abc import Iterable

    from p2pcache.formats.bptr.pointers import PointerFile


def load_pointers(paths: Iterable[str], inline: str | None = None) -> PointerFile:
    """What these files say together, and the text `inline`, which comes last.

    Raises NotFound, LocalFault (a file that cannot be read), Untrusted (one that makes no sense).
    """
    found = []
    for path in paths:
        try:
            with Path(path).open("rb") as stream:
                data = stream.read(MAX_JSON_BYTES + 1)
        except FileNotFoundError as exc:
            raise NotFound(f"no such file or folder: {path}") from exc
        except OSError as exc:
            raise LocalFault(
                f"the pointer file {path} cannot be read: {exc.strerror}",
                hint="check whether this user may read it",
            ) from exc
        found.append(read_pointers(data, path))
    if inline is not None:
        found.append(read_pointers(inline.encode(), "the call"))
    return merged(found)
