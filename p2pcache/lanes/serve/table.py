"""Which names a scope holds, where each blob lies, and who is reading it now.

The agent fills it (`control`) and the connections' threads look things up. A reader that is being
answered is listed with its blob, so that it can be cut the moment the blob is dropped: behind a
relay that lost its source others wait, and would wait for ever in a circle of relays.
"""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from p2pcache.errors import LocalFault

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Mapping

MAX_NAME_BYTES = 64


@dataclass(frozen=True, slots=True)
class Guard:
    """A file of somebody else's is served only as long as it is the one that was hashed."""

    device: int
    inode: int
    size: int
    mtime_ns: int

    def holds(self, stat: os.stat_result) -> bool:
        """Whether a file is still the same."""
        return (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns) == (
            self.device, self.inode, self.size, self.mtime_ns,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Entry:
    """One blob. `live_path`: it is still growing; one byte a block, 1 is readable (lanes/orders).

    `size` is the whole blob's, exact. A growing blob becomes complete by an update of its entry;
    before blocks that are live are rewritten (a `compare`), its readers must be dropped.
    """

    path: str
    size: int
    guard: Guard | None = None
    live_path: str | None = None

    def to_wire(self) -> list[Any]:
        """A plain list for msgpack."""
        guard = self.guard
        parts = None if guard is None else [guard.device, guard.inode, guard.size, guard.mtime_ns]
        return [self.path, self.size, parts, self.live_path]

    @classmethod
    def from_wire(cls, wire: list[Any]) -> Entry:
        """The inverse. Raises LocalFault."""
        try:
            path, size, guard, live_path = wire
            return cls(path, size, None if guard is None else Guard(*guard), live_path)
        except (TypeError, ValueError) as exc:
            raise LocalFault("a malformed entry on the control socket") from exc


class Table:
    """Scopes and entries. Any thread may call; no method waits for anything but the others."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._scopes: dict[bytes, set[bytes]] = {}
        self._entries: dict[bytes, Entry] = {}
        self._uses: Counter[bytes] = Counter()  # scopes that hold a name
        self._readers: dict[bytes, list[Callable[[], None]]] = defaultdict(list)

    def add(self, scope: bytes, entries: Mapping[bytes, Entry]) -> None:
        """Let the holders of tickets for `scope` read these names too. New entries replace old."""
        with self._lock:
            names = self._scopes.setdefault(scope, set())
            for name, entry in entries.items():
                self._entries[name] = entry
                if name not in names:
                    names.add(name)
                    self._uses[name] += 1

    def update(self, name: bytes, entry: Entry) -> None:
        """A blob moved or is complete now; ignored for a name of no scope. Readers go on."""
        with self._lock:
            if name in self._entries:
                self._entries[name] = entry

    def drop_scope(self, scope: bytes) -> None:
        """Nobody reads under this scope any more. Blobs of no other scope are dropped."""
        with self._lock:
            gone = [name for name in self._scopes.pop(scope, ()) if self._release(name)]
            readers = self._take_readers(gone)
        _cut(readers)

    def drop(self, names: Iterable[bytes]) -> None:
        """These blobs are gone, from every scope; whoever is reading one is cut, at once."""
        with self._lock:
            gone = set(names)
            for held in self._scopes.values():
                for name in gone & held:
                    held.discard(name)
                    self._release(name)
            readers = self._take_readers(gone)
        _cut(readers)

    def _release(self, name: bytes) -> bool:
        """One scope less holds a name; whether it was the last."""
        self._uses[name] -= 1
        if self._uses[name] > 0:
            return False
        del self._uses[name]
        self._entries.pop(name, None)
        return True

    def _take_readers(self, names: Iterable[bytes]) -> list[Callable[[], None]]:
        return [cut for name in names for cut in self._readers.pop(name, ())]

    def find(self, scope: bytes, name: bytes) -> Entry | None:
        """Where the blob lies, None for a name that the scope does not hold."""
        with self._lock:
            return self._entries.get(name) if name in self._scopes.get(scope, ()) else None

    @contextmanager
    def reading(self, scope: bytes, name: bytes, cut: Callable[[], None]) -> Iterator[Entry | None]:
        """`find`, with `cut` called once if the blob is dropped meanwhile."""
        with self._lock:
            entry = self._entries.get(name) if name in self._scopes.get(scope, ()) else None
            if entry is not None:
                self._readers[name].append(cut)
        try:
            yield entry
        finally:
            if entry is not None:
                self._leave(name, cut)

    def _leave(self, name: bytes, cut: Callable[[], None]) -> None:
        with self._lock:
            readers = self._readers.get(name)
            if readers and cut in readers:
                readers.remove(cut)
                if not readers:
                    del self._readers[name]

    def contents(self) -> list[tuple[bytes, list[tuple[bytes, Entry]]]]:
        """Every scope with its blobs."""
        with self._lock:
            return [
                (scope, [(name, self._entries[name]) for name in names])
                for scope, names in self._scopes.items()
            ]

    def counts(self) -> tuple[int, int]:
        """(scopes, names)."""
        with self._lock:
            return len(self._scopes), len(self._entries)


def _cut(readers: list[Callable[[], None]]) -> None:
    for cut in readers:
        cut()
