"""Uploads that broke off, kept on this machine's disk: where the rest of the bytes goes to.

The URI of a session lets anybody write who has it, for a week: each is a file that its owner alone
may read. A session that is forgotten costs a second upload, and nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from p2pcache.store.durable import local_faults

if TYPE_CHECKING:
    from pathlib import Path

KEPT_S = 7 * 86400.0  # Google ends a session then
_MAX_BYTES = 16 << 10


@dataclass(frozen=True, slots=True)
class Session:
    """`offset`: bytes that the store has for certain; `md5`: of all of them, in base64."""

    uri: str = field(repr=False)
    offset: int
    md5: str


class Sessions:
    """A folder of them, made when it is needed. All calls block; they raise LocalFault."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self, *names: str) -> Session | None:
        """What was kept under these names together; None for nothing, or what is no session."""
        try:
            with self._path(names).open("rb") as stream:
                told = json.loads(stream.read(_MAX_BYTES))
            return Session(str(told["uri"]), int(told["offset"]), str(told["md5"]))
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return None

    def keep(self, session: Session, *names: str) -> None:
        """Instead of what was kept under these names."""
        path = self._path(names)
        with local_faults("keeping where an upload goes on"):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            new = path.with_suffix(".new")
            told = {"uri": session.uri, "offset": session.offset, "md5": session.md5}
            fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with open(fd, "w") as stream:
                json.dump(told, stream)
            new.replace(path)

    def forget(self, *names: str) -> None:
        """And with it all that are too old for their store."""
        self._path(names).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            for path in self._folder.iterdir():
                if path.stat().st_mtime < time.time() - KEPT_S:
                    path.unlink(missing_ok=True)

    def _path(self, names: tuple[str, ...]) -> Path:
        return self._folder / hashlib.sha256("\0".join(names).encode()).hexdigest()
