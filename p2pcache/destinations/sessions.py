"""Uploads that broke off, kept on this machine's disk: where the rest of the bytes goes to.

The address of a session lets anybody write who has it, for days: each is a file that its owner
alone may read, and never shown. A session that is forgotten costs a second upload, no more.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from typing import TYPE_CHECKING

from p2pcache.store.durable import local_faults

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KEPT_S = 7 * 86400.0  # Google ends a session then; registries forget theirs after a day to a week
MAX_BYTES = 16 << 10  # of what is kept of one: addresses have at most 8 KiB


class Sessions:
    """A folder of them, made when it is needed. `where`: the place; `what`: which bytes go there.

    `busy`: sessions that a push is filling now, of the agent's event loop: of two pushes of one
    blob to one place the second has a session of its own, and keeps none. All methods block.
    """

    def __init__(self, folder: Path, now: Callable[[], float] = time.time) -> None:
        self.busy: set[tuple[str, str]] = set()
        self._folder = folder
        self._now = now

    def find(self, where: str, what: str) -> str | None:
        """What was kept; None for nothing, or what is too old."""
        path = self._path(where, what)
        with contextlib.suppress(OSError, UnicodeError), path.open("rb") as stream:
            if os.fstat(stream.fileno()).st_mtime > self._now() - KEPT_S:
                return stream.read(MAX_BYTES).decode()
        return None

    def keep(self, where: str, what: str, told: str) -> None:
        """Remember it, before its bytes go out, instead of what was kept. Raises LocalFault."""
        path = self._path(where, what)
        with local_faults("keeping where an upload goes on"):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            new = path.with_suffix(".new")
            fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with open(fd, "wb") as stream:
                stream.write(told.encode())
            new.replace(path)

    def drop(self, where: str, what: str) -> None:
        """It is over; and so are all that are too old for their place."""
        with contextlib.suppress(OSError):
            self._path(where, what).unlink(missing_ok=True)
            for path in self._folder.iterdir():
                if path.stat().st_mtime < self._now() - KEPT_S:
                    path.unlink(missing_ok=True)

    def _path(self, where: str, what: str) -> Path:
        return self._folder / hashlib.sha256(f"{where}\0{what}".encode()).hexdigest()
