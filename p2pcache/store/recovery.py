"""Opening the index, and replacing it when it is damaged.

Blobs are found again from their files; what only the index knew (resolutions, pins, names,
receipts) is carried over as far as the damaged file can be read.
"""

from __future__ import annotations

import sqlite3
import time
from typing import TYPE_CHECKING

from p2pcache.store.index import Index
from p2pcache.store.lease import Busy, Lease, LeaseBook
from p2pcache.store.records import salvage

if TYPE_CHECKING:
    from pathlib import Path

    from p2pcache.store.layout import Layout, StoreOptions

_DAMAGED = frozenset({0, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_PARTS = ("", "-wal", "-shm")
_POLL_S = 0.05  # how often to look whether another process is done rebuilding


def open_index(
    layout: Layout, options: StoreOptions, leases: LeaseBook, *, readonly: bool
) -> tuple[Index, bool]:
    """The index, and whether it is new (then its blobs must be found again).

    Read-only, a damaged index is left alone and an empty one in memory takes its place. Raises
    sqlite3.Error or OSError for anything but damage (no space, no permission, a lock held).
    """
    new = not layout.index.exists()
    try:
        index = _open_sound(layout, options, readonly=readonly)
    except sqlite3.DatabaseError as exc:
        if not is_damage(exc):
            raise
    else:
        if not readonly and (layout.rebuild / layout.index.name).exists():
            _finish(layout, options, leases, index)
        return index, new
    if readonly:
        absent = layout.rebuild / "no-such-index"
        return Index(absent, readonly=True, busy_timeout_s=options.busy_timeout_s), True
    lease = _wait_for_rebuild(layout, options, leases)
    try:
        return _replace(layout, options)
    finally:
        lease.release()


def is_damage(exc: sqlite3.DatabaseError) -> bool:
    """Whether SQLite says that the file itself is bad, not that it could not get at it."""
    return getattr(exc, "sqlite_errorcode", 0) & 0xFF in _DAMAGED


def _open_sound(layout: Layout, options: StoreOptions, *, readonly: bool) -> Index:
    index = Index(layout.index, readonly=readonly, busy_timeout_s=options.busy_timeout_s)
    try:
        index.check()
    except BaseException:
        index.close()
        raise
    return index


def _wait_for_rebuild(layout: Layout, options: StoreOptions, leases: LeaseBook) -> Lease:
    for _ in range(int(options.busy_timeout_s / _POLL_S)):
        try:
            return leases.take(layout.rebuild)
        except Busy:
            time.sleep(_POLL_S)
    return leases.take(layout.rebuild)


def _replace(layout: Layout, options: StoreOptions) -> tuple[Index, bool]:
    try:
        return _open_sound(layout, options, readonly=False), True  # another process was faster
    except sqlite3.DatabaseError as exc:
        if not is_damage(exc):
            raise
    aside = layout.rebuild / layout.index.name
    older = aside.with_name(f"older-{aside.name}")  # a kill left it: what it knows is not lost
    if aside.exists():
        _move(aside, older)
    for part in _PARTS:
        source = layout.index.with_name(layout.index.name + part)
        target = aside.with_name(aside.name + part)
        target.unlink(missing_ok=True)
        if source.exists():
            source.rename(target)
    index = _open_sound(layout, options, readonly=False)
    for left in (aside, older):
        _take_over(left, index)
    return index, True


def _finish(layout: Layout, options: StoreOptions, leases: LeaseBook, index: Index) -> None:
    """A process died between setting a damaged index aside and carrying its rows over."""
    lease = _wait_for_rebuild(layout, options, leases)
    try:
        aside = layout.rebuild / layout.index.name
        for left in (aside, aside.with_name(f"older-{aside.name}")):
            _take_over(left, index)
    finally:
        lease.release()


def _take_over(left: Path, index: Index) -> None:
    """Rows that are there already stay; the file goes only after the rest is committed."""
    if left.exists():
        salvage(left, index)
    for part in reversed(_PARTS):
        left.with_name(left.name + part).unlink(missing_ok=True)


def _move(source: Path, target: Path) -> None:
    for part in _PARTS:
        found = source.with_name(source.name + part)
        if found.exists():
            found.replace(target.with_name(target.name + part))
