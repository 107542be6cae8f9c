"""What running work needs, and removals that leave it alone.

Who needs a blob or a block takes hold of it, looks whether it is there, and may pin it before it
lets go. A removal looks and unlinks in one step under the lock that a hold takes, so what is found
after it was held is there until the hold ends; and it leaves all that was held at any time since it
read the pins, so a pin that is made meanwhile loses nothing.
"""

from __future__ import annotations

import threading
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    Hold = Callable[[Iterable[bytes]], None]
    Each = Callable[[Sequence[bytes], Callable[[bytes], int]], tuple[int, list[bytes]]]

BATCH = 64  # files unlinked while nobody can take hold of any: some milliseconds


class Holds:
    """Of one open store, for its process. Any thread may call. Keys: raw sha2-256 of blobs, roots
    of those without, multihashes of loose blocks.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: Counter[bytes] = Counter()
        self._new_names: dict[bytes, bytes] = {}  # roots that are held -> the sha2-256 they got
        self._removals: dict[object, set[bytes]] = {}  # each with what was held since it began

    @contextmanager
    def running(self, keys: Iterable[bytes] = ()) -> Iterator[Hold]:
        """While open, these stay. What it yields takes further ones; any thread may call it."""
        mine: list[bytes] = []

        def hold(more: Iterable[bytes]) -> None:
            new = list(more)
            with self._lock:
                mine.extend(new)
                self._running.update(new)
                self._note(new)

        hold(keys)
        try:
            yield hold
        finally:
            with self._lock:
                for key in mine:
                    self._running[key] -= 1
                    if not self._running[key]:
                        del self._running[key]
                        self._new_names.pop(key, None)

    def named(self, root_cid: bytes, sha256: bytes) -> None:
        """What is held by its root is held by the name that it is about to get, too."""
        with self._lock:
            if root_cid in self._running:
                self._new_names[root_cid] = sha256
                self._note([sha256])

    def all(self) -> set[bytes]:
        """What is held now."""
        with self._lock:
            return self._all()

    @contextmanager
    def removal(self, pinned: Callable[[], Collection[bytes]]) -> Iterator[Each]:
        """Yields what removes, of some keys, those that may go: it calls a function for each, that
        gives the bytes it freed, and gives all bytes and the keys that went. `pinned` is asked once
        for what stays. A function that is called must take no hold.
        """
        token = object()
        with self._lock:
            since = self._removals[token] = self._all()
        try:
            kept = pinned()

            def each(
                keys: Sequence[bytes], remove: Callable[[bytes], int]
            ) -> tuple[int, list[bytes]]:
                freed, gone = 0, []
                for start in range(0, len(keys), BATCH):
                    with self._lock:
                        for key in keys[start : start + BATCH]:
                            if key not in since and key not in kept:
                                freed += remove(key)
                                gone.append(key)
                return freed, gone

            yield each
        finally:
            with self._lock:
                del self._removals[token]

    def _all(self) -> set[bytes]:
        return {*self._running, *self._new_names.values()}

    def _note(self, keys: Iterable[bytes]) -> None:
        for since in self._removals.values():
            since.update(keys)


def each_one(keys: Sequence[bytes], remove: Callable[[bytes], int]) -> tuple[int, list[bytes]]:
    """Removes all of them, whoever needs them."""
    return sum(map(remove, keys)), list(keys)
